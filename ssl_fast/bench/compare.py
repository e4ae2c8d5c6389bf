"""Two files of results against each other: what has become slower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import report
from .ceilings import CEILINGS
from .report import OK, Row

Key = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One provider in one case, before and after.

    Attributes:
        machine: how much slower the ceilings of the same case have become, by the machine's mood.
        verdict: "slower", "faster", "same", or what is wrong.
    """

    key: Key
    old_ms: float | None
    new_ms: float | None
    machine: float
    verdict: str


def compare(old: Sequence[Row], new: Sequence[Row], tolerance: float) -> list[Change]:
    """Changes of all that both have, and of what the new ones lost.

    A case is slower if its median has grown by more than `tolerance` beyond what its ceilings have,
    and its 20th percentile lies above the old 80th.
    """
    before, after = _by_key(old), _by_key(new)
    return [
        change
        for key, row in before.items()
        if row.kind == OK and row.provider not in CEILINGS
        for change in _change(key, row, after.get(key), _drift(key, before, after), tolerance)
    ]


def _by_key(rows: Sequence[Row]) -> dict[Key, Row]:
    return {tuple(str(getattr(row, name)) for name in report.KEY): row for row in rows}


def _drift(key: Key, before: Mapping[Key, Row], after: Mapping[Key, Row]) -> float:
    """The largest growth of a ceiling's time; 1 where none was timed twice."""
    place = report.KEY.index("provider")
    ratios = []
    for name in CEILINGS:
        ceiling = (*key[:place], name, *key[place + 1 :])
        old, new = before.get(ceiling), after.get(ceiling)
        if old and new and old.median_ms and new.median_ms:
            ratios.append(new.median_ms / old.median_ms)
    return max(ratios, default=1.0)


def _change(
    key: Key, old: Row, new: Row | None, machine: float, tolerance: float
) -> Iterator[Change]:
    if new is None:
        return
    if new.kind != OK or not new.median_ms or not old.median_ms:
        yield Change(key, old.median_ms, None, machine, new.status)
        return
    ratio = new.median_ms / old.median_ms
    verdict = "same"
    if ratio > (1 + tolerance) * max(machine, 1.0) and (new.p20_ms or 0) > (old.p80_ms or 0):
        verdict = "slower"
    elif ratio * (1 + tolerance) < min(machine, 1.0) and (new.p80_ms or 0) < (old.p20_ms or 0):
        verdict = "faster"
    yield Change(key, old.median_ms, new.median_ms, machine, verdict)


def main(old: Path, new: Path, tolerance: float) -> int:
    """Prints what changed; 1 if something is slower or fails that did not, else 0.

    Raises:
        ValueError: for files that are no results, or that have nothing in common.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}; expected 0 or more")
    changes = compare(report.read_rows(old), report.read_rows(new), tolerance)
    if not changes:
        raise ValueError(f"{old} and {new} have no case in common")
    for change in changes:
        if change.verdict != "same":
            times = f"{change.old_ms:.4g} ms"
            times += f" -> {change.new_ms:.4g} ms" if change.new_ms else ""
            mood = f" (its ceilings: {change.machine:.2f}x)" if change.machine != 1 else ""
            print(f"{change.verdict}: {', '.join(change.key)}: {times}{mood}")
    bad = sum(change.verdict not in ("same", "faster") for change in changes)
    print(f"{len(changes)} compared, {bad} slower or failed")
    return 1 if bad else 0
