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


class WithStatus:
    """A row of any results; its dataclass says where among the columns the status stands."""

    status: str

    @property
    def kind(self) -> str:
        """The status without its reason."""
        return self.status.split(":", 1)[0]


@dataclass
class Row(WithStatus):
    """What one provider did in one case. Numbers are None unless the status is "ok".

    Attributes:
        status: "ok", "skipped: <reason>" or "failed: <what>".
        median_ms, p20_ms, p80_ms: of one call.
        samples: how many measurements these are of.
        timing: "clock", "events" or "graph" (replay of a CUDA graph).
        host_ms: how long a call keeps the CPU busy until its work is queued (GPU only).
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
    host_ms: float | None = None
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
    def of_floor(self) -> float | None:
        """Share of the nearest ceiling reached: of the copy's speed or of the product's."""
        shares = [share for share in (self.copy_share, self.product_share) if share is not None]
        return max(shares, default=None)


Key = Sequence[str]


def columns_of(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def read_csv(path: Path, kind: type = Row, key: Key = KEY) -> dict[tuple[str, ...], dict[str, str]]:
    """The rows of the file by key; none if there is no file.

    Args:
        kind, key: the dataclass of the rows, which has a status, and the names of its key.

    Raises:
        ValueError: if the file holds other columns.
    """
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        columns = columns_of(kind)
        if tuple(reader.fieldnames or ()) != columns:
            got = ", ".join(reader.fieldnames or ())
            raise ValueError(f"{path} has the columns {got}; expected {', '.join(columns)}")
        return {tuple(row[name] for name in key): row for row in reader}


def read_rows(path: Path, kind: type[Any] = Row, key: Key = KEY) -> list[Any]:
    """The rows of a file of results.

    Raises:
        ValueError: if there is no file, or it holds other columns.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected a CSV that `ssl-fast bench` wrote")
    types = {field.name: str(field.type) for field in fields(kind)}
    return [
        kind(**{name: _value(types[name], cell) for name, cell in cells.items()})
        for cells in read_csv(path, kind, key).values()
    ]


def _value(kind: str, cell: str) -> Any:
    if kind == "str":
        return cell
    if kind == "bool":
        return cell == "True"
    if not cell:
        return 0 if kind == "int" else None
    return int(cell) if kind.startswith("int") else float(cell)


def write_csv(path: Path, rows: Iterable[Any], kind: type = Row, key: Key = KEY) -> None:
    """Puts rows into the file, each in place of the one with the same key.

    A failed row replaces the number that stood there, a skipped one does not.

    Raises:
        ValueError: if the file holds other columns.
    """
    kept = read_csv(path, kind, key)
    for row in rows:
        if row.kind != SKIPPED:
            cells = {name: _cell(value) for name, value in asdict(row).items()}
            kept[tuple(cells[name] for name in key)] = cells
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns_of(kind))
        writer.writeheader()
        writer.writerows(kept[name] for name in sorted(kept))


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


HEADER = (
    *("provider", "allocator", "median ms", "p20 to p80", "host ms", "GB/s", "GFLOP/s", "of floor"),
    *("extra MB", "resident MB", "max error", "turned"),
)


def table(rows: Sequence[Row]) -> str:
    """Markdown that reads as plain text: a table for each case, then why numbers are missing."""

    def case_of(row: Row) -> tuple[str, ...]:
        return row.op, row.case, row.dtype, row.device

    order = {case_of(row): index for index, row in reversed(list(enumerate(rows)))}
    parts = []
    for case, group in groupby(sorted(rows, key=lambda row: order[case_of(row)]), case_of):
        parts.append(", ".join(case) + "\n\n" + aligned([HEADER, *map(_line, group)]))
    parts.append(why_missing(rows))
    return "\n\n".join(parts)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Markdown of a head and lines, its columns under each other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in ruled)


def plain_table(rows: Iterable[Any], columns: dict[str, str]) -> str:
    """Markdown of rows of any kind, which have a provider and a status.

    Args:
        columns: attributes, and what the table calls them.
    """
    rows = list(rows)
    lines = [[_cell(getattr(row, name)) for name in columns] for row in rows]
    return f"{aligned([list(columns.values()), *lines])}\n\n{why_missing(rows)}"


def why_missing(rows: Iterable[Any]) -> str:
    """A line for each reason why a provider has no numbers."""
    statuses = {f"{row.provider} {row.status}": None for row in rows if row.status != OK}
    return "\n".join(statuses)


def _line(row: Row) -> tuple[str, ...]:
    if row.kind != OK:
        return (row.provider, row.allocator, row.kind, *[""] * (len(HEADER) - 3))
    share = "" if row.of_floor is None else f"{row.of_floor:.1%}"
    spread = f"{_cell(row.p20_ms)} to {_cell(row.p80_ms)}"
    return (
        *(row.provider, row.allocator, _cell(row.median_ms), spread),
        *(_cell(row.host_ms), _cell(row.gb_per_s), _cell(row.gflop_per_s), share),
        *(_cell(row.extra_mb), _cell(row.resident_mb), _cell(row.max_error)),
        _cell(row.turned),
    )
