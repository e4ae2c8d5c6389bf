"""Who serves an op: owners by preference, and how to force one.

On the CPU the compiled kernel serves, else the reference. On a GPU Triton or CUDA C++ serves,
whichever was measured faster (`Op.gpu_order`), else the reference. The owner is found at the first
call on a device type, so that importing the package creates no CUDA context. A backend that is
forced and cannot serve raises, with the reason.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import native
from .library import NAMESPACE, OPS, Op

BACKENDS = ("reference", "compiled", "triton", "emulated")
DEVICES = ("cpu", "cuda")
EMULATED = "ssl_fast_emulated"  # csrc/common/stable_torch.h registers there

_lock = threading.RLock()
_forced: str | None = None
# Python implementations in force, by op and device type; without one, what is compiled serves.
_overrides: dict[tuple[str, str], torch.library.Library] = {}
# Compiled kernels that there are, noted before an override hides them.
_compiled: set[tuple[str, str]] = set()
_emulated_ops: dict[str, torch.library.Library] = {}


def reason(op: Op, backend: str, device: str) -> str:
    """Why `backend` cannot serve `op` on `device`; empty if it can."""
    if backend == "reference":
        return ""
    if backend == "compiled":
        return _compiled_reason(op, device)
    if backend == "emulated":
        return _emulated_reason(op, device)
    return _triton_reason(op, device)


def _has_kernel(namespace: str, name: str, device: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::{name}", device.upper())


def _compiled_reason(op: Op, device: str) -> str:
    if missing := native.ops().reason if device == "cpu" else native.cuda_reason():
        return missing
    if (op.name, device) not in _compiled:
        return f"{op.name} has no compiled {device.upper()} kernel"
    return ""


def _emulated_reason(op: Op, device: str) -> str:
    if device != "cpu":
        return "emulated CUDA kernels run on CPU tensors"
    if missing := native.emulated().reason:
        return missing
    _emulated(op)
    if not _has_kernel(EMULATED, op.name, "cpu"):
        return f"{op.name} has no CUDA C++ kernel"
    return ""


def _triton_reason(op: Op, device: str) -> str:
    if op.triton is None:
        return f"{op.name} has no Triton kernel"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: `pip install triton`"
    if device == "cuda" and not torch.cuda.is_available():
        return "no CUDA device is visible"
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "Triton runs on the CPU only under its interpreter: set TRITON_INTERPRET=1"
    return ""


def preferences(op: Op, device: str) -> tuple[str, ...]:
    """Backends of `op` on `device`, best first; the reference is always there."""
    return (*(op.gpu_order if device == "cuda" else ("compiled",)), "reference")


def owner(op: Op, device: str) -> str:
    """The backend that serves `op` on `device` now."""
    if _forced is not None:
        return _forced
    return next(name for name in preferences(op, device) if not reason(op, name, device))


def _implementation(op: Op, backend: str, device: str) -> Callable[..., Any] | None:
    """What to call, or None for the compiled kernel, which is registered below any override."""
    if why_not := reason(op, backend, device):

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError(f"backend {backend!r} cannot serve {op.name} on {device}: {why_not}")

        return refuse
    if backend == "reference":
        return op.reference
    if backend == "triton":
        assert op.triton is not None
        return op.triton() if op.differentiable else torch.no_grad()(op.triton())
    if backend == "emulated":
        return _emulated(op)
    return None


def _emulated(op: Op) -> Callable[..., Any]:
    """The op of the emulated library: same name and schema, in a namespace of its own."""
    if op.name not in _emulated_ops:
        library = torch.library.Library(EMULATED, "FRAGMENT")
        library.define(op.schema)
        _emulated_ops[op.name] = library
    return getattr(getattr(torch.ops, EMULATED), op.name).default


def _override(op: Op, device: str, function: Callable[..., Any] | None) -> None:
    key = (op.name, device)
    if old := _overrides.pop(key, None):
        old._destroy()
    if function is not None:
        scoped = torch.library.Library(NAMESPACE, "IMPL")
        with warnings.catch_warnings():  # torch warns of an override even where it is allowed
            warnings.simplefilter("ignore", UserWarning)
            scoped.impl(op.name, function, device.upper(), allow_override=True)
        _overrides[key] = scoped


def _resolve_at_first_call(op: Op, device: str) -> None:
    """The first call finds the owner, installs it and goes to it."""

    def first_call(*args: Any, **kwargs: Any) -> Any:
        with _lock:
            chosen = owner(op, device)
            _override(op, device, _implementation(op, chosen, device))
        return op.overload(*args, **kwargs)

    _override(op, device, first_call)


def install(op: Op) -> None:
    """Puts the owner that is preferred, or forced, in charge of `op`."""
    with _lock:
        for device in DEVICES:
            key = (op.name, device)
            if key not in _overrides and _has_kernel(NAMESPACE, *key):
                _compiled.add(key)
        if _forced is not None:
            for device in DEVICES:
                _override(op, device, None)
                _override(op, device, _implementation(op, _forced, device))
            return
        _override(op, "cpu", None)
        _resolve_at_first_call(op, "cuda")


def _force(name: str | None) -> None:
    global _forced
    with _lock:
        _forced = name
        for op in OPS.values():
            install(op)


def _check_name(name: str, origin: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"{origin} is {name!r}; accepted are {', '.join(map(repr, BACKENDS))}")


def is_forced() -> bool:
    """Whether `backend` or SSL_FAST_BACKEND has taken the choice away."""
    return _forced is not None


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Makes one backend serve every op, in the whole process, while the context lasts.

    Process-wide because CUDA's backward runs in other threads. `SSL_FAST_BACKEND` does the same
    for the life of the process.

    Args:
        name: "reference", "compiled", "triton" or "emulated" (the CUDA kernels on CPU tensors).

    Raises:
        ValueError: for another name.
        RuntimeError: from an op that the backend cannot serve, with the reason.
    """
    _check_name(name, "backend")
    before = _forced
    _force(name)
    try:
        yield
    finally:
        _force(before)


if _wanted := os.environ.get("SSL_FAST_BACKEND"):
    _check_name(_wanted, "SSL_FAST_BACKEND")
    _forced = _wanted
