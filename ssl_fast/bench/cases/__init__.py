"""One file for each family of ops, with `cases(device, small) -> Iterator[Case]`. Found by name."""

from __future__ import annotations

import importlib
import pkgutil

from ..case import Case


def families() -> tuple[str, ...]:
    """The families that have a case file."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(family: str, device: str, small: bool = False) -> list[Case]:
    """The cases of a family.

    Args:
        device: "cpu" or "cuda".
        small: shapes that run in milliseconds, to try the harness itself.

    Raises:
        ValueError: for a family without a case file.
    """
    if family not in families():
        raise ValueError(f"op is {family!r}; known are {', '.join(map(repr, families()))}")
    module = importlib.import_module(f"{__name__}.{family}")
    return list(module.cases(device, small))
