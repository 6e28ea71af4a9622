"""Tables on standard output: one line per row, no frame, one column that gives way to the width of the terminal."""

import shutil
import sys
from collections.abc import Sequence

import typer


def print_columns(rows: Sequence[dict[str, str]], *, flexible: str | None = None, numbers: Sequence[str] = ()) -> None:
    """Print rows under the titles that are their keys.

    Parameters
    ----------
    rows
        At least one, all with the same keys.
    flexible
        Title of the column that is cut to what a terminal has left; a file or a pipe has room for everything.
    numbers
        Titles of the columns that are flush right.
    """
    titles = list(rows[0])
    lines = [dict(zip(titles, titles, strict=True)), *rows]
    widths = {title: max(len(row[title]) for row in lines) for title in titles}
    if flexible is not None and sys.stdout.isatty():
        others = sum(width + 2 for title, width in widths.items() if title != flexible)
        widths[flexible] = max(min(widths[flexible], shutil.get_terminal_size().columns - others), 10)
    for row in lines:
        fields = []
        for title, width in widths.items():
            text = row[title] if len(row[title]) <= width else f"{row[title][: width - 1]}…"
            fields.append(text.rjust(width) if title in numbers else text.ljust(width))
        typer.echo("  ".join(fields).rstrip())
