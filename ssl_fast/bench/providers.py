"""The providers that most cases share, so that a case file names only what is its own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from .._dispatch import OPS, backends
from .case import Case, Provider, Skipped

Function = Callable[..., Any]
PEERS = Path(__file__).resolve().parents[2] / "bench" / "peers"
REQUIREMENTS = "bench/peers/requirements.txt"
SERVED, EAGER, COMPILED = "as served", "reference eager", "reference compiled"


def _alone(function: Function) -> Function:
    return function


def standard(
    op: str,
    public: Function,
    reference: Function,
    complete: Callable[[Function], Function] = _alone,
) -> tuple[Provider, ...]:
    """The reference, eager and under torch.compile, and our kernels behind the public function.

    In short runs ours is what users get, whoever serves. In long ones each of our kernels is forced
    too, and torch.compile also comes with the search of max-autotune.

    Args:
        op: name of the op.
        public: the case's inputs to its outputs through `ssl_fast.ops`, as users call it.
        reference: the same through the op's plain torch reference.
        complete: makes of such a function what is timed, with its gradients for example. What
            torch.compile gets is the function itself: autograd runs through it, as in training.
    """
    plain = Provider("reference", lambda device: reference)
    providers = (
        replace(plain, name=EAGER),
        under_torch_compile(plain),
        under_torch_compile(plain, "max-autotune-no-cudagraphs"),
        _kernel("compiled", op, public, ("cpu", "cuda")),
        _kernel("triton", op, public, ("cuda",)),
        Provider(SERVED, lambda device: public),
    )
    return tuple(_completed(provider, complete) for provider in providers)


def others(
    name: str,
    prepare: Callable[[str], Function],
    packages: tuple[str, ...] = (),
    complete: Callable[[Function], Function] = _alone,
) -> tuple[Provider, ...]:
    """Somebody else's way, as it is and under torch.compile; see `standard` and `Provider`."""
    provider = Provider(name, prepare, packages=packages)
    compiled = replace(under_torch_compile(provider), thorough=True)
    return tuple(_completed(each, complete) for each in (provider, compiled))


def on(
    devices: str, prepare: Callable[[str], Function], reason: str = ""
) -> Callable[[str], Function]:
    """`prepare`, for devices of one type only.

    Args:
        reason: why it is not for the others.
    """

    def prepare_there(device: str) -> Function:
        if device != devices:
            raise Skipped(reason or f"timed on {devices} only")
        return prepare(device)

    return prepare_there


def in_long_runs(providers: Iterable[Provider], *names: str) -> tuple[Provider, ...]:
    """The providers, of which those of these names are left out of short runs."""
    return tuple(
        replace(provider, thorough=provider.thorough or provider.name in names)
        for provider in providers
    )


def growing(case: Case, axis: str, size: int, without: Collection[str] = ()) -> Case:
    """The case as one point of a curve: ours as served, the eager reference, and theirs.

    Args:
        axis, size: what grows, and how large it is here.
        without: names of providers that cannot take this size.
    """
    names = {EAGER, SERVED, case.theirs}.difference(without)
    return replace(
        case,
        name=f"over {axis}: {case.name}",
        providers=tuple(provider for provider in case.providers if provider.name in names),
        headline=False,
        axis=axis,
        size=size,
    )


def _completed(provider: Provider, complete: Callable[[Function], Function]) -> Provider:
    return replace(provider, prepare=lambda device: complete(provider.prepare(device)))


def _kernel(backend: str, op: str, public: Function, devices: tuple[str, ...]) -> Provider:
    def prepare(device: str) -> Function:
        if device not in devices:
            raise Skipped(f"timed on {' and '.join(devices)} only")
        if reason := backends.reason(OPS[op], backend, device):
            raise Skipped(reason)
        return public

    packages = ("triton",) if backend == "triton" else ()
    return Provider(backend, prepare, backend=backend, packages=packages, thorough=True)


def under_torch_compile(provider: Provider, mode: str = "default") -> Provider:
    """The provider under `torch.compile`; skipped where inductor has nothing to compile with.

    Args:
        mode: of `torch.compile`; any but the default takes minutes, and is for long runs.
    """

    def prepare(device: str) -> Function:
        function = provider.prepare(device)
        if not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
            raise Skipped("torch.compile needs a C++ compiler: install g++, or set CXX")
        if device == "cuda" and importlib.util.find_spec("triton") is None:
            raise Skipped("torch.compile needs triton on a GPU: `pip install triton`")
        return torch.compile(function, dynamic=False, mode=mode)

    usual = mode == "default"
    return replace(
        provider,
        name=f"{provider.name} {'compiled' if usual else 'max-autotune'}",
        prepare=prepare,
        thorough=provider.thorough or not usual,
    )


def import_peers() -> None:
    """Imports all other libraries that are there, which takes seconds."""
    for path in sorted(PEERS.glob("*_peer.py")):
        with contextlib.suppress(Skipped):
            peer(path.stem)


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
        raise Skipped(f"{error}; to install: `pip install -r {REQUIREMENTS}`") from error
    return loaded
