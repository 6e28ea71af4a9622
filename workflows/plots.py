"""Pictures of a run: a column of panels over a common axis."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

_COLORS = ("#1f4e79", "#c55a11", "#548235", "#7f6000")
#: More points than pixels only cost time.
_POINTS = 4000


@dataclass(frozen=True)
class Curve:
    """One line in a panel."""

    y: NDArray[np.float64]
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes
    ----------
    title
        Axis label with its unit.
    curves
        Lines over the common axis.
    target
        A dashed horizontal line, say the temperature that was asked for.
    log
        Logarithmic axis; values that are not positive are left out.
    """

    title: str
    curves: Sequence[Curve]
    target: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Plot:
    """A column of panels."""

    heading: str
    x: NDArray[np.float64]
    x_title: str
    panels: Sequence[Panel] = field(default_factory=tuple)

    def save(self, path: Path) -> None:
        """Draw as PNG."""
        count = max(len(self.panels), 1)
        figure = Figure(figsize=(7.2, 1.0 + 1.75 * count), layout="constrained")
        FigureCanvasAgg(figure)  # no window system needed, whatever matplotlib is configured to
        axes = np.atleast_1d(figure.subplots(count, 1, sharex=True))
        for axis, panel in zip(axes, self.panels, strict=False):
            self._draw(axis, panel)
        axes[-1].set_xlabel(self.x_title)
        figure.suptitle(self.heading, fontsize=10)
        figure.savefig(path, dpi=150, format="png")

    def _draw(self, axis: Axes, panel: Panel) -> None:
        step = max(1, len(self.x) // _POINTS)
        for curve, color in zip(panel.curves, _COLORS, strict=False):
            y = np.where(curve.y > 0, curve.y, np.nan) if panel.log else curve.y
            known = np.isfinite(y)
            marker = "o" if known.sum() < 30 else ""
            axis.plot(
                self.x[known][::step], y[known][::step], color=color, lw=1.1, marker=marker, ms=3, label=curve.label
            )
        if panel.target is not None:
            axis.axhline(panel.target, color="0.35", lw=0.9, ls="--")
        if panel.log:
            axis.set_yscale("log")
        else:
            axis.yaxis.set_major_locator(MaxNLocator(5))
            axis.ticklabel_format(axis="y", useOffset=False)
        axis.set_ylabel(panel.title, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(color="0.9", lw=0.6)
        axis.margins(x=0.01)
        if any(curve.label for curve in panel.curves):
            axis.legend(fontsize=7, loc="best", frameon=False, ncols=len(panel.curves))
