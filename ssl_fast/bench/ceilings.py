"""What the machine can do at best, timed in the same rounds: a copy, and a product of matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .case import Case, Check, Inputs, Provider

COPY = "copy of the same bytes"
PRODUCT = "product of matrices"
CEILINGS = (COPY, PRODUCT)
# Large enough for the full rate, small enough for many turns.
SIDES = {"cpu": 1024, "cuda": 8192}
PRODUCT_TYPES = ("float16", "bfloat16", "float32")


def ceilings_of(case: Case, device: str) -> list[Case]:
    """Cases of one provider each: the copy that bounds `case`, and the product if it has some."""
    copy = _bound(case, COPY, _copy, Check("copy", _buffers(case.moved_bytes), atol=0.0))
    if not case.flops:
        return [copy]
    side = SIDES[device]
    # Entries are sums of `side` terms, read in the type of the case.
    atol = side**0.5 * (1e-3 if case.dtype == "float32" else 0.1)
    product = _bound(case, PRODUCT, torch.mm, Check("product", _matrices(case, side), atol))
    return [copy, product]


def product_flops(device: str) -> int:
    """Of one call of the product."""
    return 2 * SIDES[device] ** 3


def _bound(case: Case, name: str, function: Callable[..., Tensor], check: Check) -> Case:
    return Case(
        op=case.op,
        name=case.name,
        dtype=case.dtype,
        reference=function,
        checks=(check,),
        moved_bytes=case.moved_bytes,
        providers=(Provider(name, lambda device: function),),
        flops=case.flops,
        axis=case.axis,
        size=case.size,
    )


def _buffers(moved_bytes: int) -> Callable[[str, int], Inputs]:
    """Makes (destination, source), each half of the bytes: one is written, the other read."""

    def make(device: str, seed: int) -> Inputs:
        generator = torch.Generator(device).manual_seed(seed)
        half = max(1, moved_bytes // 2)
        size = (half,)
        source = torch.randint(0, 256, size, device=device, generator=generator, dtype=torch.uint8)
        return torch.ones_like(source), source

    return make


def _copy(destination: Tensor, source: Tensor) -> Tensor:
    return destination.copy_(source)


def _matrices(case: Case, side: int) -> Callable[[str, int], Inputs]:
    """Two square matrices in the type in which the case multiplies."""
    name = case.dtype if case.dtype in PRODUCT_TYPES else "float32"

    def make(device: str, seed: int) -> Inputs:
        generator = torch.Generator(device).manual_seed(seed)
        size = (side, side)
        both = (torch.randn(size, device=device, generator=generator) for _ in range(2))
        return tuple(matrix.to(getattr(torch, name)) for matrix in both)

    return make
