"""Rows of results put in order: cases, their floors, ceilings, growth, what is missing."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .. import ops
from .._dispatch import OPS
from . import machine
from .ceilings import CEILINGS, COPY, PRODUCT, PRODUCT_TYPES
from .report import OK, Row

# Who is ours, in the order of preference where one has to stand for all.
OURS = ("as served", "compiled", "triton", "triton panels", "triton fused", "host (NumPy)")
# Copies of fewer bytes may stay in the caches: their speed is not memory's.
LARGE_MB = 32


@dataclass(frozen=True)
class CaseRows:
    """The rows of one case on one device, under all allocators; ceilings apart."""

    op: str
    case: str
    dtype: str
    device: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        return f"{self.op}, {self.case}, {self.dtype}"

    @property
    def name(self) -> str:
        """For a file."""
        return file_name(f"{self.title} {self.device}")

    @property
    def allocators(self) -> tuple[str, ...]:
        return _known_order({row.allocator for row in self.rows})

    @property
    def providers(self) -> tuple[str, ...]:
        """Of those with a number: ours, what users have, then the others as they came."""
        names = dict.fromkeys(r.provider for r in self.rows if r.kind == OK)
        names = {name: None for name in names if name not in CEILINGS}

        def rank(name: str) -> tuple[int, int]:
            if name in OURS:
                return 0, OURS.index(name)
            return (1, 0) if name == self.theirs else (2, 0)

        return tuple(sorted(names, key=rank))

    @property
    def theirs(self) -> str:
        return next((row.theirs for row in self.rows if row.theirs), "")

    def row(self, provider: str, allocator: str) -> Row | None:
        """The row with a number of a provider."""
        for row in self.rows:
            if (row.provider, row.allocator, row.kind) == (provider, allocator, OK):
                return row
        return None

    def ours(self, allocator: str) -> Row | None:
        found = (self.row(name, allocator) for name in OURS)
        return next((row for row in found if row), None)

    def floor_ms(self, allocator: str) -> float | None:
        """The time below which nobody can be: of the copy or of the products, the longer one."""
        times = [floor_ms(row) for row in self.rows if row.allocator == allocator]
        return max((time for time in times if time is not None), default=None)


def file_name(title: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", title.lower()).strip("-")


def floor_ms(row: Row) -> float | None:
    """What the nearest ceiling took in the rounds of a row."""
    if row.median_ms is None or row.of_floor is None:
        return None
    return row.median_ms * row.of_floor


def floor_name(row: Row) -> str:
    """Which ceiling is the nearest: "copy" or "products"."""
    if row.of_floor is None:
        return ""
    return "products" if row.of_floor == row.product_share else "copy"


def memory_mb(row: Row) -> float | None:
    """Beyond inputs and outputs, of the whole process where that was seen."""
    if row.resident_mb is None:
        return row.extra_mb
    return max(row.resident_mb, row.extra_mb or 0.0)


def _known_order(allocators: Iterable[str]) -> tuple[str, ...]:
    known = machine.ALLOCATORS
    return tuple(sorted(allocators, key=lambda a: known.index(a) if a in known else len(known)))


def cases(rows: Iterable[Row]) -> list[CaseRows]:
    """The cases in the order of the rows, but for those that only show growth."""
    found: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if not row.axis or row.headline:
            found.setdefault((row.op, row.case, row.dtype, row.device), []).append(row)
    return [CaseRows(*key, tuple(group)) for key, group in found.items()]


def family_of(op: str) -> str:
    """The folder of an op, whether it is one of the dispatcher's or made of several."""
    function = OPS[op].reference if op in OPS else getattr(ops, op, None)
    parts = getattr(function, "__module__", "").split(".")
    return parts[2] if parts[:2] == ["ssl_fast", "ops"] and len(parts) > 2 else op


# ---- Ceilings


@dataclass(frozen=True)
class Ceiling:
    """What the machine can do, as seen beside the cases: the median, and from where to where."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    count: int


def ceilings(rows: Sequence[Row]) -> list[Ceiling]:
    """The copy's speed, of large copies if there are some, and the products' rate of each dtype."""
    found: dict[tuple[str, str], list[float]] = {}
    copies = [row for row in rows if row.provider == COPY and row.gb_per_s and row.median_ms]
    large = [row for row in copies if row.gb_per_s * row.median_ms >= LARGE_MB]  # type: ignore[operator]
    for row in large or copies:
        name = f"copy, {LARGE_MB} MB or more" if large else "copy"
        found.setdefault((name, "GB/s"), []).append(row.gb_per_s or 0.0)
    for row in rows:
        if row.provider == PRODUCT and row.gflop_per_s:
            dtype = row.dtype if row.dtype in PRODUCT_TYPES else "float32"
            found.setdefault((f"product of matrices, {dtype}", "GFLOP/s"), []).append(
                row.gflop_per_s
            )
    return [
        Ceiling(name, unit, statistics.median(values), min(values), max(values), len(values))
        for (name, unit), values in found.items()
    ]


# ---- Growth


@dataclass(frozen=True)
class Series:
    """How the cost of an op grows along an axis, under one allocator."""

    op: str
    dtype: str
    axis: str
    device: str
    allocator: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        return f"{self.op}, {self.dtype}"

    @property
    def span(self) -> str:
        """The smallest case and the largest."""
        ordered = sorted(self.rows, key=lambda row: row.size)
        ends = (row.case.removeprefix(f"over {self.axis}: ") for row in (ordered[0], ordered[-1]))
        return " to ".join(ends)

    @property
    def name(self) -> str:
        """For a file."""
        words = (self.op, self.dtype, self.axis, self.device, self.allocator)
        return file_name(" ".join(words))

    @property
    def theirs(self) -> str:
        return next((row.theirs for row in self.rows if row.theirs), "")

    @property
    def providers(self) -> tuple[str, ...]:
        case = CaseRows(self.op, "", self.dtype, self.device, self.rows)
        return case.providers

    def points(self, provider: str, value: str) -> list[tuple[int, float]]:
        """Sizes and values in ascending order; `value` is "ms" or "MB"."""
        of = {"ms": lambda row: row.median_ms, "MB": memory_mb}[value]
        rows = (row for row in self.rows if row.provider == provider and row.kind == OK)
        found = {row.size: of(row) for row in rows}
        return sorted((size, float(y)) for size, y in found.items() if y is not None)

    def floor(self) -> list[tuple[int, float]]:
        """Sizes and the times of the nearest ceiling."""
        found: dict[int, float] = {}
        for row in self.rows:
            if (time := floor_ms(row)) is not None:
                found[row.size] = max(time, found.get(row.size, 0.0))
        return sorted(found.items())


def growth(rows: Iterable[Row]) -> list[Series]:
    """One series for each op, dtype and axis: cases of growth differ in one size each."""
    found: dict[tuple[str, str, str, str, str], list[Row]] = {}
    for row in rows:
        if row.axis:
            key = (row.op, row.dtype, row.axis, row.device, row.allocator)
            found.setdefault(key, []).append(row)
    return [Series(*key, tuple(group)) for key, group in found.items()]


# ---- What is missing


def missing(rows: Iterable[Row], kind: str) -> dict[tuple[str, str], list[str]]:
    """Who was skipped or failed, and why: (provider, reason) -> the cases."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.kind == kind:
            reason = row.status.partition(": ")[2]
            cases = found.setdefault((row.provider, reason), [])
            if (case := f"{row.op}, {row.case}, {row.dtype}") not in cases:
                cases.append(case)
    return found
