"""Checks of the contrastive losses' arguments, and the types that they are computed in."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from .reference import compute_dtype

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPAT = (None, "mmpretrain")


def check_features(**features: Any) -> None:
    """Raises unless these are floating-point tensors [n, D] of one D, with rows, on one device."""
    first_name, first = next(iter(features.items()))
    for name, value in features.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor [n, D]")
        if value.dtype not in DTYPES:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise TypeError(f"{name} is {value.dtype}; accepted are {names}")
        if value.dim() != 2:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; expected [n, D]")
        if value.shape[1] != first.shape[1] or value.shape[1] == 0:
            raise ValueError(
                f"{first_name} has shape {tuple(first.shape)} and {name} {tuple(value.shape)}; "
                f"expected features of one size D, which is not 0"
            )
        if value.device != first.device:
            raise ValueError(f"{name} is on {value.device}, {first_name} on {first.device}")


def check_pairs(group: Any, **features: Tensor) -> None:
    """Raises unless both have as many rows, and, in one process, at least one."""
    (first_name, first), (second_name, second) = features.items()
    if first.shape[0] != second.shape[0]:
        raise ValueError(
            f"{first_name} has {first.shape[0]} rows and {second_name} {second.shape[0]}; "
            f"expected pairs: row i of one belongs to row i of the other"
        )
    check_rows(group, **{first_name: first})


def check_rows(group: Any, **features: Tensor) -> None:
    """Raises for no rows. With a group, a process may have none if others have some."""
    for name, value in features.items():
        if group is None and value.shape[0] == 0:
            raise ValueError(f"{name} has no rows; the mean over nothing is not defined")


def check_compat(compat: Any) -> None:
    """Raises unless `compat` is one of the accepted."""
    if compat not in COMPAT:
        raise ValueError(f"compat is {compat!r}; accepted are None and 'mmpretrain'")


def check_temperature(temperature: Any) -> None:
    """Raises unless `temperature` is a positive number or a tensor of one element."""
    _check_scalar("temperature", temperature)
    if not isinstance(temperature, Tensor) and not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; expected a positive, finite number")


def scale_of_temperature(temperature: Tensor | float, like: Tensor) -> Tensor:
    """1 / temperature as the ops take it; differentiable in a tensor."""
    check_temperature(temperature)
    if isinstance(temperature, Tensor):
        return 1.0 / scalar("temperature", temperature, like)
    return scalar("temperature", 1.0 / temperature, like)


def scalar(name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """`value` as a tensor [] beside `like`, of the type that it is computed in.

    Raises:
        TypeError: unless it is a number or a tensor of a floating-point type.
        ValueError: for a tensor of several elements or on another device, a number not finite.
    """
    _check_scalar(name, value)
    dtype = compute_dtype(like.dtype)
    if not isinstance(value, Tensor):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; expected a finite number")
        return torch.full((), float(value), dtype=dtype, device=like.device)
    # A scalar on the CPU goes where it is wanted, as in torch's own operators.
    return value.reshape(()).to(device=like.device, dtype=dtype)


def _check_scalar(name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{name} is {value.dtype}; expected a floating-point tensor")
        if value.numel() != 1:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; expected one element")
    elif not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a number or a tensor")


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether a backward may ask for a gradient of one of these."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def operands(*features: Tensor) -> list[Tensor]:
    """Features in the type that their products are taken in.

    Under autocast its type, else the promotion of theirs; float64 stays.
    """
    dtype = features[0].dtype
    for other in features[1:]:
        dtype = torch.promote_types(dtype, other.dtype)
    device = features[0].device.type
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return [feature.to(dtype) for feature in features]


def normalized(x: Tensor, compat: str | None = None) -> Tensor:
    """x [n, D] divided by the norms of its rows, in float32 at least; differentiable.

    By max(norm, 1e-12), as torch's `normalize`; with compat="mmpretrain" by norm + 1e-10. Under
    autocast as without it.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):  # entering the context costs more than a small norm
        with torch.autocast(device, enabled=False):
            return _normalized(x, compat)
    return _normalized(x, compat)


def _normalized(x: Tensor, compat: str | None) -> Tensor:
    x = x.to(compute_dtype(x.dtype))
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / (norms + 1e-10 if compat else norms.clamp_min(1e-12))


def empty_outputs(like: Tensor, shapes: tuple[Any, ...], with_gradient: bool) -> tuple[Tensor, ...]:
    """What an op's fake returns: a loss, and gradients of these shapes or of no elements."""
    dtype = compute_dtype(like.dtype)
    shapes = shapes if with_gradient else tuple((0,) for _ in shapes)
    return tuple(like.new_empty(shape, dtype=dtype) for shape in ((), *shapes))
