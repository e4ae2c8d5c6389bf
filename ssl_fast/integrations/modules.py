"""Questions about another library's modules and losses, before a function of theirs is replaced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
)


def has_hooks(module: nn.Module) -> bool:
    """Whether something waits for this module to be called."""
    return any(getattr(module, name) for name in HOOKS)


def inherits(instance: Any, owner: type, *names: str) -> bool:
    """Whether these methods are those of `owner`: neither a subclass's nor the instance's own."""
    kind = type(instance)
    return isinstance(instance, owner) and all(
        getattr(kind, name) is getattr(owner, name) and name not in vars(instance) for name in names
    )


def are_features(*tensors: Any) -> bool:
    """Whether these are [n, D], floating point, of one type and device."""
    first = tensors[0]
    return all(
        isinstance(x, Tensor)
        and x.dim() == 2
        and x.shape[1] > 0
        and x.is_floating_point()
        and x.dtype == first.dtype
        and x.device == first.device
        for x in tensors
    )


def cross_entropy_dtype(features: Tensor) -> torch.dtype:
    """In which torch's cross entropy of products of `features` comes: float32 under autocast."""
    autocast = torch.is_autocast_enabled(features.device.type)
    return torch.float32 if autocast and features.dtype != torch.float64 else features.dtype


def sum_dtype(features: Tensor) -> torch.dtype:
    """In which the sum of a product of `features` comes: a CPU's autocast leaves sums alone."""
    device = features.device.type
    if not torch.is_autocast_enabled(device) or features.dtype == torch.float64:
        return features.dtype
    return torch.get_autocast_dtype(device) if device == "cpu" else torch.float32
