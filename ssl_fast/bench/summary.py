"""The headline cases in one table: theirs against ours, as README has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import machine
from .report import OK, Row

OURS = "as served"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


@dataclass(frozen=True)
class Line:
    """A headline case under each allocator.

    Attributes:
        theirs, ours: milliseconds by allocator.
        their_mb, our_mb: memory beyond inputs and outputs, of the process where that was seen.
        of_floor: the share of the nearest ceiling that ours reaches, the better one.
    """

    op: str
    case: str
    dtype: str
    name: str
    theirs: dict[str, float]
    ours: dict[str, float]
    their_mb: float | None
    our_mb: float | None
    of_floor: float | None


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

    shares = [row.of_floor for row in ours.values() if row.of_floor is not None]
    return Line(
        *key, name, times(theirs), times(ours), _memory(theirs), _memory(ours),
        max(shares, default=None),
    )  # fmt: skip


def _memory(by_allocator: dict[str, Row]) -> float | None:
    """Of the default allocator, which gives back what is not in use."""
    row = by_allocator.get(machine.ALLOCATORS[0])
    if row is None:
        return None
    return row.extra_mb if row.resident_mb is None else max(row.resident_mb, row.extra_mb or 0)


def markdown(rows: Sequence[Row], device: str) -> str:
    """The table as Markdown: medians in ms, in brackets how many times faster ours are."""
    allocators = [a for a in machine.ALLOCATORS if any(r.allocator == a for r in rows)]
    head = ["", "in place of"]
    for allocator in allocators:
        suffix = f", {allocator} allocator" if device == "cpu" else ""
        head += [f"theirs{suffix}", f"ours{suffix}"]
    head += ["memory", "of the floor"]
    table = [head, ["---"] * len(head)]
    for line in lines(rows, device):
        cells = [f"`{line.op}`, {line.case}, {line.dtype}", line.name]
        for allocator in allocators:
            theirs, ours = line.theirs.get(allocator), line.ours.get(allocator)
            cells.append(_ms(theirs))
            ratio = f" ({_times(theirs / ours)})" if theirs and ours else ""
            cells.append(f"**{_ms(ours)}{ratio}**" if ours else "")
        cells.append(f"{_mb(line.their_mb)} -> {_mb(line.our_mb)}")
        cells.append("" if line.of_floor is None else f"{line.of_floor:.0%}")
        table.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def _mb(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f} MB" if value >= 1 else "none"


def write_into(path: Path, rows: Sequence[Row], device: str) -> None:
    """Puts the table between the two marks of a Markdown file.

    Raises:
        ValueError: if the file has not both marks.
    """
    text = path.read_text()
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    if not re.search(pattern, text, re.S):
        raise ValueError(f"{path} has no lines {BEGIN} and {END} to put the table between")
    table = f"{BEGIN}\n\n{markdown(rows, device)}\n\n{END}"
    path.write_text(re.sub(pattern, lambda _: table, text, flags=re.S))
