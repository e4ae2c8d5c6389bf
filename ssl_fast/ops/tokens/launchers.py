"""Triton's launchers by name, imported when first wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def triton_launcher(name: str) -> Callable[[], Callable[..., Any]]:
    """What `register` takes as `triton`."""

    def launcher() -> Callable[..., Any]:
        from . import triton_kernels

        return getattr(triton_kernels, name)

    return launcher
