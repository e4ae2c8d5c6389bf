"""Random masks: those of MAE, and what SimMIM and VideoMAE make of them.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners" (2022).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._dispatch import register
from ...random import device_of, optional_sample_ids, seed_tensor
from . import reference
from .arguments import check_int, check_length, num_kept

Triple = tuple[Tensor, Tensor, Tensor]


def random_mask(
    num_samples: int,
    length: int,
    mask_ratio: float,
    *,
    seed: int | Tensor | None = None,
    noise: Tensor | None = None,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Triple:
    """Masks of single tokens, drawn uniformly: int(length * (1 - mask_ratio)) of them are kept.

    Tokens are put in the order of random keys, ties by index, and the first are kept. The keys are
    words of Philox, or the caller's `noise`: then the result is that of MAE's two argsorts, where
    these are stable. A mask depends on the seed and its sample id alone: not on the batch, the
    device or the backend. `ssl_fast.host.random_mask` gives the same in NumPy.

    Args:
        num_samples: N.
        length: L, tokens of a sample, 1 to 65,536.
        mask_ratio: share of the tokens masked, in [0, 1].
        seed: an int, one int64 on the device, or None: drawn from torch's generator.
        noise: [N, L], floating point, in place of seed and sample_ids. NaN comes last.
        sample_ids: [N] int64; None for 0 .. N - 1. Give each rank its own, or dataset indices.
        device: where; None for that of the tensors given, else torch's default.

    Returns:
        ids_keep: [N, K] int64, the tokens kept, in shuffled order.
        ids_restore: [N, L] int64, the place of each token in that order, the masked ones behind.
        mask: [N, L] float32, 1 where masked.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """
    check_int("num_samples", num_samples, 0)
    check_length(length)
    kept = num_kept(length, mask_ratio)
    where = device_of(device, noise, seed, sample_ids)
    if noise is not None:
        _check_noise(noise, (num_samples, length), where, seed, sample_ids)
        return _random_mask_from_noise(noise, kept)
    seeds = seed_tensor(seed, where)
    ids = optional_sample_ids(sample_ids, num_samples, where)
    return permuted(seeds, ids, num_samples, length, kept)


def permuted(
    seed: Tensor, sample_ids: Tensor | None, num_samples: int, length: int, kept: int
) -> Triple:
    """`random_mask` of checked arguments."""
    return _random_mask(seed, sample_ids, num_samples, length, kept)


def first_by_noise(noise: Tensor, count: int) -> Tensor:
    """[N, count] int64: the tokens of the smallest noise [N, L], in its order."""
    return _random_mask_from_noise(noise, count)[0]


def _check_noise(
    noise: Tensor, shape: tuple[int, int], device: torch.device, seed: Any, sample_ids: Any
) -> None:
    if seed is not None or sample_ids is not None:
        raise ValueError("noise is given, so seed and sample_ids have no use: expected None")
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        got = noise.dtype if isinstance(noise, Tensor) else type(noise).__name__
        raise TypeError(f"noise is {got}; expected a floating point tensor [N, L]")
    if tuple(noise.shape) != shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}; expected {shape}")
    if noise.device != device:
        raise ValueError(f"noise is on {noise.device}; expected {device}")


def _fakes(like: Tensor, count: int, length: int, kept: int) -> Triple:
    return (
        like.new_empty((count, kept), dtype=torch.int64),
        like.new_empty((count, length), dtype=torch.int64),
        like.new_empty((count, length), dtype=torch.float32),
    )


def _fake(
    seed: Tensor, sample_ids: Tensor | None, num_samples: int, length: int, kept: int
) -> Triple:
    return _fakes(seed, num_samples, length, kept)


def _fake_from_noise(noise: Tensor, kept: int) -> Triple:
    return _fakes(noise, noise.shape[0], noise.shape[1], kept)


_random_mask = register(
    "random_mask(Tensor seed, Tensor? sample_ids, SymInt num_samples, SymInt length, "
    "SymInt num_kept) -> (Tensor, Tensor, Tensor)",
    reference=reference.random_mask,
    fake=_fake,
    triton=True,
)
_random_mask_from_noise = register(
    "random_mask_from_noise(Tensor noise, SymInt num_kept) -> (Tensor, Tensor, Tensor)",
    reference=reference.random_mask_from_noise,
    fake=_fake_from_noise,
    triton=True,
)
