"""Checks of the token ops' arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_float(name: str, value: Any, shape: str, ndim: int) -> None:
    """Raises unless `value` is a floating-point tensor with `ndim` dimensions."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor {shape}")
    if value.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"{name} is {value.dtype}; accepted are {names}")
    if value.dim() != ndim:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {shape}")


def check_ids(
    name: str, ids: Any, like: Tensor, length: int | None = None, of: str = "tokens"
) -> None:
    """Raises unless `ids` is [N, K] int64 on the device of `like`, N its first size.

    The values are looked at on the CPU alone: on a GPU that would be a synchronisation.

    Args:
        length: ids are in 0 .. length - 1; None for K.
        of: what is counted by `length`.
    """
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"{name} is {got}; expected an int64 tensor")
    batch = like.shape[0]
    if ids.dim() != 2 or ids.shape[0] != batch:
        raise ValueError(f"{name} has shape {tuple(ids.shape)}; expected two sizes, {batch} first")
    check_device(name, ids, like)
    length = ids.shape[1] if length is None else length
    if ids.device.type == "cpu" and not torch.compiler.is_compiling() and ids.numel():
        low, high = torch.aminmax(ids)
        if low < 0 or high >= length:
            raise ValueError(
                f"{name} is in {int(low)} .. {int(high)}; there are {length} {of}, counted from 0"
            )


def check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    """Raises unless both are on one device."""
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}; expected {like.device}")
