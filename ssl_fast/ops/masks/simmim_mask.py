"""SimMIM's masks: large squares of patches, chosen at random.

Source: Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling" (2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...random import device_of, optional_sample_ids, seed_tensor
from .arguments import check_int, simmim_sizes
from .random_mask import permuted


def simmim_mask(
    num_samples: int,
    input_size: int = 192,
    mask_patch_size: int = 32,
    model_patch_size: int = 4,
    mask_ratio: float = 0.6,
    *,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Masks of squares of `mask_patch_size` pixels, on the grid of the model's patches.

    Of the n squares ceil(mask_ratio * n) are masked: those that `random_mask` of n tokens masks. A
    mask depends on the seed and its sample id alone; `ssl_fast.host.simmim_mask` gives the same.

    Args:
        num_samples: N.
        input_size: height and width of the images in pixels.
        mask_patch_size: of a square that is masked as a whole; a divisor of `input_size`.
        model_patch_size: of the model's patches; a divisor of `mask_patch_size`.
        mask_ratio: share of the squares masked, in [0, 1].
        seed, sample_ids, device: as for `random_mask`.

    Returns:
        bool [N, h, w], True where masked, with h = w = input_size / model_patch_size.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """
    check_int("num_samples", num_samples, 0)
    side, scale, num_masked = simmim_sizes(
        input_size, mask_patch_size, model_patch_size, mask_ratio
    )
    where = device_of(device, seed, sample_ids)
    ids, seeds = optional_sample_ids(sample_ids, num_samples, where), seed_tensor(seed, where)
    _, _, mask = permuted(seeds, ids, num_samples, side**2, side**2 - num_masked)
    coarse = mask.bool().view(num_samples, side, 1, side, 1)
    fine = coarse.expand(num_samples, side, scale, side, scale)
    return fine.reshape(num_samples, side * scale, side * scale)
