"""Results: one row for each provider, a CSV that keeps the newest of each key, and a table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

KEY = ("op", "case", "dtype", "provider", "allocator", "device")
OK, SKIPPED, FAILED = "ok", "skipped", "failed"


@dataclass
class Row:
    """What one provider did in one case. Numbers are None unless the status is "ok".

    Attributes:
        status: "ok", "skipped: <reason>" or "failed: <what>".
        median_ms, p20_ms, p80_ms: of one call.
        samples: how many measurements these are of.
        timing: "clock", "events" or "graph" (replay of a CUDA graph).
        gb_per_s: bytes that must be moved, over the median.
        copy_share: time of a copy of as many bytes, measured in the same rounds, over the median.
        gflop_per_s: floating-point operations of the products that must be done, over the median.
        product_share: their time at the rate of a large product of matrices, measured in the same
            rounds, over the median.
        extra_mb: peak of torch's allocator beyond inputs and outputs.
        resident_mb: the same for the whole process's resident memory (CPU only).
        max_error: largest difference from the float64 reference in the comparison, among values
            that do not hang on a turned decision.
        turned: share of the values that do: a bin or a rank fell on the other side of its edge.
        busy: share of the machine that other work took before the start.
        theirs: the provider of this case that users have today.
        headline: whether the case stands in the summary.
        axis, size: what grows and how large it is, for cases of growth.
    """

    op: str
    case: str
    dtype: str
    provider: str
    allocator: str
    device: str
    status: str = OK
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    samples: int | None = None
    timing: str = ""
    gb_per_s: float | None = None
    copy_share: float | None = None
    gflop_per_s: float | None = None
    product_share: float | None = None
    extra_mb: float | None = None
    resident_mb: float | None = None
    max_error: float | None = None
    turned: float | None = None
    threads: int | None = None
    busy: float | None = None
    theirs: str = ""
    headline: bool = False
    axis: str = ""
    size: int = 0
    machine: str = ""
    versions: str = ""
    commit: str = ""
    date: str = ""

    @property
    def kind(self) -> str:
        """The status without its reason."""
        return self.status.split(":", 1)[0]

    @property
    def of_floor(self) -> float | None:
        """Share of the nearest ceiling reached: of the copy's speed or of the product's."""
        shares = [share for share in (self.copy_share, self.product_share) if share is not None]
        return max(shares, default=None)


COLUMNS = tuple(field.name for field in fields(Row))
TYPES = {field.name: str(field.type) for field in fields(Row)}


def read_csv(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """The rows of the file by key; none if there is no file.

    Raises:
        ValueError: if the file holds other columns.
    """
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            got = ", ".join(reader.fieldnames or ())
            raise ValueError(f"{path} has the columns {got}; expected {', '.join(COLUMNS)}")
        return {tuple(row[name] for name in KEY): row for row in reader}


def read_rows(path: Path) -> list[Row]:
    """The rows of a file of results.

    Raises:
        ValueError: if there is no file, or it holds other columns.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected a CSV that `ssl-fast bench` wrote")
    return [
        Row(**{name: _value(name, cell) for name, cell in cells.items()})
        for cells in read_csv(path).values()
    ]


def _value(name: str, cell: str) -> Any:
    kind = TYPES[name]
    if kind == "str":
        return cell
    if kind == "bool":
        return cell == "True"
    if not cell:
        return 0 if kind == "int" else None
    return int(cell) if kind.startswith("int") else float(cell)


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Puts rows into the file, each in place of the one with the same key.

    A failed row replaces the number that stood there, a skipped one does not.

    Raises:
        ValueError: if the file holds other columns.
    """
    kept = read_csv(path)
    for row in rows:
        if row.kind != SKIPPED:
            cells = {name: _cell(value) for name, value in asdict(row).items()}
            kept[tuple(cells[name] for name in KEY)] = cells
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(kept[key] for key in sorted(kept))


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


HEADER = (
    *("provider", "allocator", "median ms", "p20 to p80", "GB/s", "GFLOP/s", "of floor"),
    *("extra MB", "resident MB", "max error", "turned"),
)


def table(rows: Sequence[Row]) -> str:
    """Markdown that reads as plain text: a table for each case, then why numbers are missing."""

    def case_of(row: Row) -> tuple[str, ...]:
        return row.op, row.case, row.dtype, row.device

    order = {case_of(row): index for index, row in reversed(list(enumerate(rows)))}
    parts = []
    for case, group in groupby(sorted(rows, key=lambda row: order[case_of(row)]), case_of):
        lines = [HEADER, *map(_line, group)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
        lines.insert(1, tuple("-" * width for width in widths))
        text = ("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)
        parts.append("\n".join((", ".join(case) + "\n", *text)))
    missing = {f"{row.provider} {row.status}": None for row in rows if row.kind != OK}
    parts.append("\n".join(missing))
    return "\n\n".join(parts)


def _line(row: Row) -> tuple[str, ...]:
    if row.kind != OK:
        return (row.provider, row.allocator, row.kind, *[""] * (len(HEADER) - 3))
    share = "" if row.of_floor is None else f"{row.of_floor:.1%}"
    spread = f"{_cell(row.p20_ms)} to {_cell(row.p80_ms)}"
    return (
        *(row.provider, row.allocator, _cell(row.median_ms), spread),
        *(_cell(row.gb_per_s), _cell(row.gflop_per_s), share),
        *(_cell(row.extra_mb), _cell(row.resident_mb), _cell(row.max_error)),
        _cell(row.turned),
    )
