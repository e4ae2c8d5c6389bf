"""Markdown of results, for files to keep: the headline cases in one table; all cases of an op."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import digest, machine
from .digest import CaseRows
from .report import OK, Row

OURS = "as served"
WAITS = 0.8  # who keeps the CPU busy for so much of its time waits for it
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
# Between marks that name an op stand all its cases: `<!-- bench hog: begin -->`; results of a GPU
# stand where they say so: `<!-- bench on cuda: begin -->`, `<!-- bench hog on cuda: begin -->`.
MARKED = re.compile(
    r"(<!-- bench(?: (?!on )(\w+))?(?: on (\w+))?: begin -->).*?(<!-- bench[ \w]*: end -->)", re.S
)


@dataclass(frozen=True)
class Line:
    """A headline case under each allocator.

    Attributes:
        theirs, ours: milliseconds by allocator.
        their_mb, our_mb: memory beyond inputs and outputs, of the process where that was seen.
        ratios: how many times as long theirs takes, by allocator.
        of_floor: the share of the nearest ceiling that ours reaches, the better one.
        their_host, our_host: milliseconds of the CPU, where a GPU does the work.
    """

    op: str
    case: str
    dtype: str
    name: str
    theirs: dict[str, float]
    ours: dict[str, float]
    ratios: dict[str, float]
    their_mb: float | None
    our_mb: float | None
    of_floor: float | None
    their_host: float | None
    our_host: float | None


def lines(rows: Sequence[Row], device: str) -> list[Line]:
    """The headline cases of a device, in the order of the rows."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.headline and row.device == device:
            found.setdefault((row.op, row.case, row.dtype), []).append(row)
    return [_line(key, group) for key, group in found.items()]


def _line(key: tuple[str, str, str], rows: Sequence[Row]) -> Line:
    name = rows[0].theirs or "reference eager"
    theirs = {r.allocator: r for r in rows if r.provider == name and r.kind == OK}
    ours = {r.allocator: r for r in rows if r.provider == OURS and r.kind == OK}

    def times(by_allocator: dict[str, Row]) -> dict[str, float]:
        return {key: row.median_ms for key, row in by_allocator.items() if row.median_ms}

    both = {key: _ratio(row, ours[key]) for key, row in theirs.items() if key in ours}
    ratios = {key: ratio for key, ratio in both.items() if ratio}
    shares = [row.of_floor for row in ours.values() if row.of_floor is not None]
    return Line(
        *key, name, times(theirs), times(ours), ratios, _memory(theirs), _memory(ours),
        max(shares, default=None), _host(theirs), _host(ours),
    )  # fmt: skip


def _ratio(other: Row, ours: Row) -> float | None:
    """How many times as long as ours another takes.

    Where another waits for Python and launches, which no graph could take from it, ours counts with
    its own.
    """
    if not other.median_ms or not ours.median_ms:
        return None
    ours_ms = ours.median_ms
    waits = (other.host_ms or 0.0) >= WAITS * other.median_ms
    if other.timing == "events" and ours.timing == "graph" and waits:
        ours_ms = max(ours_ms, ours.host_ms or 0.0)
    return other.median_ms / ours_ms


def _host(by_allocator: dict[str, Row]) -> float | None:
    return next((row.host_ms for row in by_allocator.values()), None)


def _memory(by_allocator: dict[str, Row]) -> float | None:
    """Of the default allocator, which gives back what is not in use."""
    row = by_allocator.get(machine.ALLOCATORS[0])
    if row is None:
        return None
    return digest.memory_mb(row)


def markdown(rows: Sequence[Row], device: str) -> str:
    """The table as Markdown."""
    head, *body = cells(rows, device)
    return as_markdown([head, ["---"] * len(head), *body])


def as_markdown(table: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in table)


def cells(rows: Sequence[Row], device: str) -> list[list[str]]:
    """The table, its head first: times in ms, in brackets how many times faster ours are."""
    allocators = [a for a in machine.ALLOCATORS if any(r.allocator == a for r in rows)]
    head = ["", "in place of"]
    for allocator in allocators:
        suffix = f", {allocator} allocator" if device == "cpu" else ""
        head += [f"theirs{suffix}", f"ours{suffix}"]
    head += ["memory", "of the floor"]
    head += ["CPU, theirs -> ours"] if device == "cuda" else []
    table = [head]
    for line in lines(rows, device):
        one = [f"`{line.op}`, {line.case}, {line.dtype}", line.name]
        for allocator in allocators:
            ours, found = line.ours.get(allocator), line.ratios.get(allocator)
            one.append(_ms(line.theirs.get(allocator)))
            ratio = f" ({_times(found)})" if found else ""
            one.append(f"**{_ms(ours)}{ratio}**" if ours else "")
        one.append(f"{_mb(line.their_mb)} -> {_mb(line.our_mb)}")
        one.append("" if line.of_floor is None else _share(line.of_floor))
        if device == "cuda":
            one.append(f"{_ms(line.their_host)} -> {_ms(line.our_host)}")
        table.append(one)
    return table


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 99.5 else f"{value:.2g}"


def _share(value: float) -> str:
    return f"{value:.0%}" if value >= 0.01 else "< 1%"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def _mb(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f} MB" if value >= 1 else "none"


# ---- One op


def cases_of(rows: Sequence[Row], op: str, device: str) -> str:
    """All cases of an op as Markdown, under the last allocator that was measured.

    Raises:
        ValueError: if there is none.
    """
    cases = [case for case in digest.cases(rows) if (case.op, case.device) == (op, device)]
    lines = [line for case in cases if (line := _case(case))]
    if not lines:
        raise ValueError(f"there is no result of {op!r} on {device!r}")
    head = ["", "floor, ms", "ours, ms", "of the floor", "memory", "reference eager, ms"]
    head += ["fastest other, ms"]
    return as_markdown([head, ["---"] * len(head), *lines])


def _case(case: CaseRows) -> list[str]:
    """None of it if ours has no number. Memory is that of `_memory`."""
    allocator = case.allocators[-1]
    ours = case.ours(allocator)
    if ours is None or ours.median_ms is None:
        return []
    share = "" if ours.of_floor is None else f"{_share(ours.of_floor)} ({digest.floor_name(ours)})"
    plain = case.row("reference eager", allocator)
    names = [name for name in case.providers if name not in digest.OURS]
    others = [row for name in names if (row := case.row(name, allocator)) and row.median_ms]
    best = min(others, key=lambda row: row.median_ms or 0.0, default=None)
    found = (case.row(ours.provider, name) for name in case.allocators)
    memory = _memory({row.allocator: row for row in found if row})
    return [
        f"{case.case}, {case.dtype}",
        _ms(digest.floor_ms(ours)),
        f"**{_ms(ours.median_ms)}**",
        share,
        _mb(memory),
        _against(plain, ours),
        f"{_against(best, ours)}, {best.provider}" if best else "",
    ]


def _against(row: Row | None, ours: Row) -> str:
    ratio = _ratio(row, ours) if row else None
    return f"{_ms(row.median_ms)} ({_times(ratio)})" if row and ratio else ""


# ---- Into files


def write_into(path: Path, rows: Sequence[Row], device: str) -> None:
    """Puts tables between the device's marks of a Markdown file: the summary, or cases of an op.

    Raises:
        ValueError: if the file has no such marks, or names an op that has no results.
    """
    count = 0

    def filled(found: re.Match[str]) -> str:
        nonlocal count
        begin, op, where, end = found.groups()
        if (where or "cpu") != device:
            return found[0]
        count += 1
        table = cases_of(rows, op, device) if op else markdown(rows, device)
        return f"{begin}\n\n{table}\n\n{end}"

    text = MARKED.sub(filled, path.read_text())
    if not count:
        on = "" if device == "cpu" else f" on {device}"
        marks = " and ".join(mark.replace(":", f"{on}:") for mark in (BEGIN, END))
        raise ValueError(f"{path} has no lines {marks} to put the table between")
    path.write_text(text)
