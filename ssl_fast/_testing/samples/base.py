"""How samples are declared and found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One call of an op.

    Attributes:
        args: positional arguments of the op's schema.
        exact: the outputs are decisions (masks, indices): compared bit for bit.
        constants: positions of floating-point arguments that get no gradient.
        large: left out with Triton's interpreter, which would take minutes.
    """

    name: str
    args: tuple[Any, ...]
    exact: bool = False
    constants: tuple[int, ...] = ()
    large: bool = False

    def to(self, device: str) -> Sample:
        """The same call on another device, strides kept."""
        return self.map(lambda tensor: _copy_strided(tensor, device))

    def widened(self) -> Sample:
        """The same call in float64: what the truth is computed from."""
        wide = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)

        def widen(arg: Any) -> Any:
            if isinstance(arg, torch.dtype):
                return torch.float64 if arg in wide else arg
            return arg.double() if isinstance(arg, Tensor) and arg.dtype in wide else arg

        return replace(self, args=tuple(map(widen, self.args)))

    def map(self, function: Callable[[Tensor], Tensor]) -> Sample:
        """The same call with every tensor replaced."""
        args = tuple(function(arg) if isinstance(arg, Tensor) else arg for arg in self.args)
        return replace(self, args=args)

    def leaves(self) -> tuple[Sample, list[Tensor]]:
        """The same call on leaves of a graph, and those of them that ask for a gradient."""
        leaves = {
            i: arg.detach().requires_grad_()
            for i, arg in enumerate(self.args)
            if isinstance(arg, Tensor) and arg.is_floating_point() and i not in self.constants
        }
        args = tuple(leaves.get(i, arg) for i, arg in enumerate(self.args))
        return replace(self, args=args), list(leaves.values())


@dataclass(frozen=True)
class OpSamples:
    """The samples of one op.

    Attributes:
        dtypes: of the op's main input; each sample is drawn once for each.
        make: yields the samples for a dtype, the same ones at every call.
    """

    op: str
    dtypes: tuple[torch.dtype, ...]
    make: Callable[[torch.dtype], Iterator[Sample]]


SAMPLES: dict[str, OpSamples] = {}


def samples_of(
    op: str, dtypes: tuple[torch.dtype, ...]
) -> Callable[[Callable[[torch.dtype], Iterator[Sample]]], OpSamples]:
    """Declares the decorated generator as the samples of `op`."""

    def declare(make: Callable[[torch.dtype], Iterator[Sample]]) -> OpSamples:
        SAMPLES[op] = OpSamples(op, dtypes, make)
        return SAMPLES[op]

    return declare


def _copy_strided(tensor: Tensor, device: str) -> Tensor:
    if tensor.device.type == device:
        return tensor
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    flat = tensor.as_strided((reach + 1 if tensor.numel() else 0,), (1,)).to(device)
    return flat.as_strided(tensor.shape, tensor.stride())
