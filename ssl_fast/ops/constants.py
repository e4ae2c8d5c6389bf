"""Numbers given by the caller as tensors on a device, copied there once."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def constant(values: tuple[float, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
    """`values` as a tensor on the device of `like`; nobody may write to it.

    To make it anew in every call would be a copy to the GPU each time, which the CPU waits for and
    a CUDA graph cannot hold.
    """
    if type(like) is not Tensor or torch.compiler.is_compiling():  # tracing makes its own
        return torch.tensor(values, dtype=dtype, device=like.device)
    return _constant(values, dtype, like.device)


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else no backward could save it later
        return torch.tensor(values, dtype=dtype, device=device)
