"""Triton's launchers by name, imported when first wanted: the package itself imports no triton."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def triton_launcher(name: str) -> Callable[[], Callable[..., Any]]:
    """What `register` takes as `triton`."""

    def load() -> Callable[..., Any]:
        return getattr(importlib.import_module(f"{__package__}.triton_kernels"), name)

    return load
