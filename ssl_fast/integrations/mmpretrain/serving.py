"""When a replacement may stand in for what it replaces: checks that several of them share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..modules import has_hooks
from ._patches import patches

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Below so many elements the calls of a few ops cost more than what they save: measured on the CPU.
FEW = 2**16
_BINARY = "_ssl_fast_binary"


def fast_on(*tensors: Tensor) -> bool:
    """Whether these are on one device, and our kernels serve it."""
    first = tensors[0].device
    return first.type in ("cpu", "cuda") and all(tensor.device == first for tensor in tensors)


def is_worth(elements: int) -> bool:
    """Whether tensors of so many elements are large enough for ours to be faster."""
    return elements >= FEW


def is_plain(module: Any, *classes: type[nn.Module]) -> bool:
    """Whether nothing is lost if `module` is not called: it is of one of the classes, unhooked."""
    if type(module) not in classes or "forward" in vars(module):
        return False
    return not has_hooks(module)


def calls_known(instance: Any, *names: str) -> bool:
    """Whether the instance's methods of these names are ours, or those that ours rely on."""
    return all(
        name not in vars(instance) and patches.knows(getattr(type(instance), name))
        for name in names
    )


def feeds(x: Tensor, weight: Tensor) -> bool:
    """Whether a product of these is defined: of one dtype, or cast by autocast."""
    if x.dtype == weight.dtype:
        return x.dtype in FLOATS
    lower = x.dtype in FLOATS[:3] and weight.dtype in FLOATS[:3]
    return lower and torch.is_autocast_enabled(x.device.type)


def marked_binary(mask: Tensor) -> Tensor:
    """`mask`, of zeros and ones, so that `is_binary` knows it without a look."""
    if not torch.compiler.is_compiling() and not mask.is_inference():
        setattr(mask, _BINARY, mask._version)
    return mask


def is_binary(mask: Tensor) -> bool:
    """Whether a mask chooses and does not weigh.

    On a GPU a look would be a synchronisation: there a mask of floating point numbers is binary if
    it is marked, and unchanged since, and others are taken to be.
    """
    if mask.dtype == torch.bool:
        return True
    if not mask.is_inference() and getattr(mask, _BINARY, None) == mask._version:
        return True
    if mask.device.type == "cpu":
        return bool(((mask == 0) | (mask == 1)).all())
    return not mask.is_floating_point()
