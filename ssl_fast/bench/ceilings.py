"""What the machine can do at best: a copy that moves as many bytes, timed in the same rounds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .case import Case, Check, Inputs, Provider

NAME = "copy of the same bytes"


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


def copy_of(case: Case) -> Case:
    """A case of one provider: the copy that bounds `case`. Its buffers are cold as inputs are."""
    return Case(
        op=case.op,
        name=case.name,
        dtype=case.dtype,
        reference=_copy,
        checks=(Check("copy", _buffers(case.moved_bytes), atol=0.0),),
        moved_bytes=case.moved_bytes,
        providers=(Provider(NAME, lambda device: _copy),),
    )
