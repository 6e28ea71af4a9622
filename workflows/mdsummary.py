"""Numbers and picture of a molecular-dynamics run, from its table."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hydrapot.workflows.drift import linear_drift
from hydrapot.workflows.plots import Curve, Panel, Plot

#: Columns of the table; conserved: shadow energy for nve, the extended energy of Nosé–Hoover and MTK, empty
#: for langevin.
COLUMNS = (
    "step",
    "time_ps",
    "potential_ev",
    "kinetic_ev",
    "temperature_k",
    "conserved_ev",
    "pressure_gpa",
    "volume_a3",
)
#: Part of a run that averages leave out, as equilibration.
_EQUILIBRATION = 0.2

Columns = dict[str, NDArray[np.float64]]


class _Settings(Protocol):
    @property
    def ensemble(self) -> str: ...
    @property
    def temperature(self) -> float: ...
    @property
    def pressure(self) -> float: ...


def results(table: Columns, *, n_atoms: int, ensemble: str) -> dict[str, Any]:
    """Averages after the first fifth, and the drift of what should be conserved, with its 95 % interval."""
    count = len(table["step"])
    late = slice(int(_EQUILIBRATION * count), None)
    found: dict[str, Any] = {
        "time_ps": float(table["time_ps"][-1]) if count else 0.0,
        "averaged_from_ps": float(table["time_ps"][late][0]) if count else None,
    }
    for name, column in (
        ("temperature", "temperature_k"),
        ("potential", "potential_ev"),
        ("pressure", "pressure_gpa"),
        ("volume", "volume_a3"),
    ):
        values = table[column][late]
        values = values[np.isfinite(values)]
        unit = column.rpartition("_")[2]
        if len(values):
            found[f"{name}_mean_{unit}"] = float(values.mean())
            found[f"{name}_std_{unit}"] = float(values.std())
    found["conserved_quantity"] = {"nve": "shadow energy", "langevin": None}.get(ensemble, "extended energy")
    drift = linear_drift(table["time_ps"], 1000 * table["conserved_ev"] / n_atoms)
    if drift is not None:
        found["drift_mev_per_atom_per_ps"] = drift.slope
        found["drift_uncertainty_mev_per_atom_per_ps"] = drift.uncertainty
    return found


def plot(table: Columns, *, heading: str, n_atoms: int, settings: _Settings) -> Plot:
    """Energy, temperature, drift and pressure over time."""
    potential, total = table["potential_ev"], table["potential_ev"] + table["kinetic_ev"]

    def per_atom(values: NDArray[np.float64]) -> NDArray[np.float64]:
        known = values[np.isfinite(values)]
        return np.asarray(1000 * (values - (known[0] if len(known) else 0.0)) / n_atoms)

    nve = settings.ensemble == "nve"
    panels = [
        Panel("ΔE (meV/atom)", [Curve(per_atom(potential), "potential"), Curve(per_atom(total), "total")]),
        Panel("T (K)", [Curve(table["temperature_k"])], target=None if nve else settings.temperature),
    ]
    if np.isfinite(table["conserved_ev"]).any():
        curves = [Curve(per_atom(table["conserved_ev"]), "shadow energy" if nve else "extended energy")]
        if nve:
            curves.append(Curve(per_atom(total), "energy"))
        panels.append(Panel("drift (meV/atom)", curves))
    if np.isfinite(table["pressure_gpa"]).any():
        target = settings.pressure if settings.ensemble == "npt" else None
        panels.append(Panel("p (GPa)", [Curve(table["pressure_gpa"])], target=target))
    if settings.ensemble == "npt":
        panels.append(Panel("V (Å³/atom)", [Curve(table["volume_a3"] / n_atoms)]))
    return Plot(heading, table["time_ps"], "time (ps)", panels)
