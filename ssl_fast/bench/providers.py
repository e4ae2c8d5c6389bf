"""The providers that most cases share, so that a case file names only what is its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from .._dispatch import OPS, backends
from .case import Provider, Skipped

Function = Callable[..., Any]
PEERS = Path(__file__).resolve().parents[2] / "bench" / "peers"


def standard(op: str, public: Function, reference: Function) -> tuple[Provider, ...]:
    """The reference, eager and under torch.compile, and our kernels behind the public function.

    Args:
        op: name of the op.
        public: the case's inputs to its outputs through `ssl_fast.ops`, as users call it.
        reference: the same through the op's plain torch reference.
    """
    return (
        Provider("reference eager", lambda device: reference),
        under_torch_compile(Provider("reference", lambda device: reference)),
        _kernel("compiled", op, public, ("cpu", "cuda")),
        _kernel("triton", op, public, ("cuda",)),
    )


def _kernel(backend: str, op: str, public: Function, devices: tuple[str, ...]) -> Provider:
    def prepare(device: str) -> Function:
        if device not in devices:
            raise Skipped(f"timed on {' and '.join(devices)} only")
        if reason := backends.reason(OPS[op], backend, device):
            raise Skipped(reason)
        return public

    packages = ("triton",) if backend == "triton" else ()
    return Provider(backend, prepare, backend=backend, packages=packages)


def under_torch_compile(provider: Provider) -> Provider:
    """The provider under `torch.compile`; skipped where inductor has nothing to compile with."""

    def prepare(device: str) -> Function:
        function = provider.prepare(device)
        if not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
            raise Skipped("torch.compile needs a C++ compiler: install g++, or set CXX")
        if device == "cuda" and importlib.util.find_spec("triton") is None:
            raise Skipped("torch.compile needs triton on a GPU: `pip install triton`")
        return torch.compile(function, dynamic=False)

    return Provider(f"{provider.name} compiled", prepare, packages=provider.packages)


def peer(module: str) -> ModuleType:
    """A file of `bench/peers/`, which imports somebody else's library. For use in `prepare`.

    Raises:
        Skipped: without a checkout, or without the library; says how to install it.
    """
    path = PEERS / f"{module}.py"
    if not path.is_file():
        raise Skipped("bench/peers is not here: run from a checkout")
    spec = importlib.util.spec_from_file_location(f"ssl_fast_bench_{module}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(loaded)
    except ImportError as error:
        command = f"pip install -r bench/peers/requirements-{module.removesuffix('_peer')}.txt"
        raise Skipped(f"{error}; to install: `{command}`") from error
    return loaded
