"""The one `torch.library.Library` of ssl_fast and how an op enters it.

An op is declared once, in `ops/<family>/<op>.py`, with its schema, its reference (plain torch, the
specification, and what runs where nothing better can), a fake for `torch.compile`, and either an
autograd formula or the statement that it has no gradient. Compiled kernels register themselves
under the same name for CPU and CUDA when their library loads; see `backends.py` for who serves.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from . import native

NAMESPACE = "ssl_fast"
library = torch.library.Library(NAMESPACE, "FRAGMENT")


@dataclass(frozen=True)
class Op:
    """What the dispatch knows of an op.

    Attributes:
        schema: as `torch.library` takes it, without the namespace.
        reference: the plain torch implementation, for any device.
        triton: returns the Triton launcher, imported when first wanted; None without one.
        gpu_order: backends by preference on a GPU, as measured; the reference comes last anyway.
        differentiable: whether the op has an autograd formula.
    """

    name: str
    schema: str
    reference: Callable[..., Any]
    triton: Callable[[], Callable[..., Any]] | None
    gpu_order: tuple[str, ...]
    differentiable: bool

    @property
    def overload(self) -> torch._ops.OpOverload:
        return getattr(torch.ops.ssl_fast, self.name).default


OPS: dict[str, Op] = {}


def register(
    schema: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    triton: bool = False,
    gpu_order: tuple[str, ...] = ("triton", "compiled"),
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> torch._ops.OpOverload:
    """Declares an op and returns it, ready to be called.

    Args:
        schema: "name(Tensor x, ...) -> Tensor".
        reference: plain torch, in `reference.py` of the op's family.
        fake: shapes and dtypes of the outputs, for `torch.compile`.
        triton: whether the family's `triton_kernels.py` has a launcher of the op's name.
        gpu_order: backends by preference on a GPU, as measured.
        backward, setup_context: as `torch.library.register_autograd` takes them. Without them the
            op has no gradient: its outputs never require one.
    """
    native.ops()
    name = schema.split("(", 1)[0]
    family = reference.__module__.rpartition(".")[0]
    qualified = f"{NAMESPACE}::{name}"
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    if backward is None:
        # Nothing to record: autograd is passed over (a formula in Python would cost every call),
        # and the reference must not record its own steps.
        reference = torch.no_grad()(reference)
        library.impl(name, torch.library.fallthrough_kernel, "Autograd")
    else:
        torch.library.register_autograd(
            qualified, backward, setup_context=setup_context, lib=library
        )
    library.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=library)
    launcher = _triton_launcher(family, name) if triton else None
    op = Op(name, schema, reference, launcher, gpu_order, backward is not None)
    OPS[name] = op
    from . import backends

    backends.install(op)
    return op.overload


def _triton_launcher(family: str, name: str) -> Callable[[], Callable[..., Any]]:
    """Imports the launcher when it is first wanted: the package itself imports no Triton."""
    return lambda: getattr(importlib.import_module(f"{family}.triton_kernels"), name)
