"""When a replacement may stand in for what it replaces: checks that several of them share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ._patches import patches

_BINARY = "_ssl_fast_binary"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fast_on(*tensors: Tensor) -> bool:
    """Whether our kernels serve the devices of these."""
    return all(tensor.device.type in ("cpu", "cuda") for tensor in tensors)


def is_plain(module: nn.Module, *classes: type) -> bool:
    """Whether nothing is lost if `module`, of one of the classes, is not called: no hook on it."""
    hooked = any(getattr(module, name) for name in _HOOKS)
    return type(module) in classes and not hooked and "forward" not in vars(module)


def calls_ours(instance: Any, *names: str) -> bool:
    """Whether the instance's methods of these names are replacements of ours in place."""
    return all(
        name not in vars(instance) and patches.put(getattr(type(instance), name)) for name in names
    )


def inherits(instance: Any, owner: type, *names: str) -> bool:
    """Whether the instance's methods of these names are those of `owner`."""
    return all(
        name not in vars(instance) and getattr(type(instance), name) is getattr(owner, name)
        for name in names
    )


def marked_binary(mask: Tensor) -> Tensor:
    """`mask`, of zeros and ones, so that `is_binary` knows it without a look."""
    setattr(mask, _BINARY, mask._version)
    return mask


def is_binary(mask: Tensor) -> bool:
    """Whether a mask chooses and does not weigh.

    On a GPU a look would be a synchronisation: there floating point masks are binary if they are
    marked and unchanged since, and those of other types are taken to be.
    """
    if mask.dtype == torch.bool or getattr(mask, _BINARY, None) == mask._version:
        return True
    if mask.device.type == "cpu":
        return bool(((mask == 0) | (mask == 1)).all())
    return not mask.is_floating_point()
