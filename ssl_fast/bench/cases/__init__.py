"""One file for each family of ops, found by its name.

`cases(device, small) -> Iterator[Case]` has the shapes of real models; `growth(device, small)`, if
it is there, cases that differ in one size each, to show how cost grows.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace

from ..case import Case

SELECTIONS = ("headline", "all", "growth")


def families() -> tuple[str, ...]:
    """The families that have a case file."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(family: str, device: str, small: bool = False, selection: str = "all") -> list[Case]:
    """The cases of a family.

    Args:
        device: "cpu" or "cuda".
        small: shapes that run in milliseconds, to try the harness itself.
        selection: "all" cases with all their providers; of the "headline" cases those that do not
            take long; or cases of "growth".

    Raises:
        ValueError: for a family without a case file, or another selection.
    """
    if family not in families():
        raise ValueError(f"op is {family!r}; known are {', '.join(map(repr, families()))}")
    if selection not in SELECTIONS:
        raise ValueError(f"selection is {selection!r}; accepted are {', '.join(SELECTIONS)}")
    module = importlib.import_module(f"{__name__}.{family}")
    if selection == "growth":
        return list(module.growth(device, small)) if hasattr(module, "growth") else []
    cases = list(module.cases(device, small))
    if selection == "all":
        return cases
    return [
        replace(case, providers=tuple(p for p in case.providers if not p.thorough))
        for case in cases
        if case.headline
    ]
