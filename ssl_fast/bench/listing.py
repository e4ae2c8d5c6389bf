"""Results on the page that are not of one op: whole training steps, loaders of data."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from . import digest, markup, plots

PROVIDER = "provider"


@dataclass(frozen=True)
class Listing:
    """Results that are not of one op.

    Attributes:
        title, text: the heading, and a sentence below it.
        rows: dataclasses or mappings with the same columns. Those before `provider` say what is
            compared: a plot for each.
        value, unit: the column that is drawn, and of what it is. Empty cells are no bars.
        low, high: columns of what it spreads over; may be absent.
        theirs: the provider in the colour of what users have today.
    """

    title: str
    text: str
    rows: Sequence[Any]
    value: str = "median_ms"
    unit: str = "ms"
    low: str = "p20_ms"
    high: str = "p80_ms"
    theirs: str = ""

    def table(self) -> list[dict[str, Any]]:
        """The rows as mappings."""
        return [dict(row) if isinstance(row, Mapping) else asdict(row) for row in self.rows]


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV for a `Listing`.

    Raises:
        ValueError: if there is no file, or no column `provider`.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected a CSV")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if PROVIDER not in (columns := reader.fieldnames or ()):
            got = ", ".join(columns)
            raise ValueError(f"{path} has the columns {got}; expected {PROVIDER!r} among them")
        return list(reader)


def section(listing: Listing, charts: dict[str, str]) -> str:
    """Text, plots and table as HTML; `charts` gets the plots by name."""
    rows = listing.table()
    columns = list(rows[0])
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get(listing.value) not in (None, ""):
            named = (str(row[name]) for name in columns[: columns.index(PROVIDER)])
            found.setdefault(", ".join(named), []).append(row)
    figures = []
    for title, group in found.items():
        if not plots.why_not():
            name = digest.file_name(f"{listing.title} {title}")
            charts[name] = plots.bars_svg(_bars(listing, group), listing.unit, title, name)
            figures.append(markup.figure(title, plots.inline(charts[name])))
    kinds = ["" if _is_number(rows[0][name]) else "text" for name in columns]
    lines = [
        [(markup.cell(_number(row[name])), kind) for name, kind in zip(columns, kinds, strict=True)]
        for row in rows
    ]
    table = markup.table(list(zip(columns, kinds, strict=True)), lines)
    return "\n".join([f"<p>{escape(listing.text)}</p>", markup.grid(figures), table])


def _bars(listing: Listing, rows: Sequence[Mapping[str, Any]]) -> list[plots.Bar]:
    names = [str(row[PROVIDER]) for row in rows]
    bars = []
    for row, name in zip(rows, names, strict=True):
        value = float(row[listing.value])
        low, high = (float(row.get(column) or value) for column in (listing.low, listing.high))
        colour = plots.colour_of(name, listing.theirs, names)
        bars.append(plots.Bar(name, value, low, high, colour))
    return bars


def _is_number(value: Any) -> bool:
    return isinstance(_number(value), int | float) or str(value).isdigit()


def _number(value: Any) -> Any:
    """A number that a CSV gave as text; a commit may look like one, but for the point."""
    try:
        return float(value) if isinstance(value, str) and "." in value else value
    except ValueError:
        return value
