"""iBOT's masks for a batch of crops, as DINOv2 collates them.

Sources: Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer" (2022); Oquab et al.,
"DINOv2" (2023).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..._dispatch import register
from ...random import device_of, sample_id_tensor, seed_tensor
from . import reference
from .arguments import ibot_law


class IbotMask(NamedTuple):
    """The masks of a batch of B crops of L patches, M of all being masked.

    Attributes:
        mask: bool [B, L], True where masked.
        indices: int64 [M], the masked places of the flattened mask, ascending.
        weights: float32 [M], 1 / the number masked in the crop of each of them.
        upper_bound: M is never more than this, whatever the random numbers.
        num_masked: int64 [1], M, on the device.
    """

    mask: Tensor
    indices: Tensor
    weights: Tensor
    upper_bound: int
    num_masked: Tensor


def ibot_mask(
    num_samples: int,
    grid: tuple[int, int],
    mask_ratio: tuple[float, float] = (0.1, 0.5),
    mask_probability: float = 0.5,
    min_block: int = 4,
    max_block: int | None = None,
    min_aspect: float = 0.3,
    max_aspect: float | None = None,
    *,
    padded: bool = False,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> IbotMask:
    """Masks for a batch in which int(B * mask_probability) crops, chosen at random, are masked.

    The i-th of these n, in random order, is to mask int(L * r) patches, r uniform in the i-th of n
    equal slices of `mask_ratio`: the ratios of a batch are spread evenly. Blocks are tried as in
    `block_mask`, until enough is masked or ten tries in a row were in vain: it may have fewer.

    The result is that of the batch: it depends on the seed and on all sample ids in their order,
    not on the device or the backend. `ssl_fast.host.ibot_mask` gives the same in NumPy.

    Args:
        num_samples: B.
        grid: height and width in patches, L = height * width, at most 65,536.
        mask_ratio: least and greatest share of the patches that a masked crop is asked for.
        mask_probability: share of the crops that are masked.
        min_block: least area of a block in cells. Blocks of the end may be smaller.
        max_block: most new cells of a block; None for half of the grid, as in DINOv2.
        min_aspect: least height / width, 1e-6 to 1e6.
        max_aspect: greatest; None for 1 / `min_aspect`.
        padded: whether indices and weights have `upper_bound` elements, filled up with zeros, so
            that nothing waits for the device. Otherwise they have as many as are masked.
        seed: an int, one int64 on the device, or None: drawn from torch's generator.
        sample_ids: [B] int64; None for 0 .. B - 1. Give each rank its own.
        device: where; None for that of `seed` or `sample_ids`, else torch's default.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """
    law = ibot_law(
        num_samples,
        grid,
        mask_ratio,
        mask_probability,
        min_block,
        max_block,
        min_aspect,
        max_aspect,
    )
    where = device_of(device, seed, sample_ids)
    seeds = seed_tensor(seed, where)
    ids = sample_id_tensor(sample_ids, num_samples, where)
    mask = _ibot_mask(seeds, ids, *law).flatten(1)
    counts = mask.sum(dim=1)
    flat, num_masked = mask.flatten(), counts.sum().reshape(1)
    weight = 1 / counts.clamp(min=1).float()
    if not padded:
        indices = flat.nonzero()[:, 0]
        weights = weight[indices // mask.shape[1]]
        return IbotMask(mask, indices, weights, law.upper_bound, num_masked)
    # The place of each index among the masked; what is not masked goes to a place behind.
    places = torch.where(flat, flat.cumsum(0) - 1, law.upper_bound)
    indices = flat.new_zeros(law.upper_bound + 1, dtype=torch.int64)
    indices = indices.scatter_(0, places, torch.arange(len(flat), device=where))[:-1]
    filled = torch.arange(law.upper_bound, device=where) < num_masked
    weights = torch.where(filled, weight[indices // mask.shape[1]], 0.0)
    return IbotMask(mask, indices, weights, law.upper_bound, num_masked)


def _fake(seed: Tensor, sample_ids: Tensor, height: int, width: int, *rest: int) -> Tensor:
    return sample_ids.new_empty((sample_ids.shape[0], height, width), dtype=torch.bool)


_ibot_mask = register(
    "ibot_mask(Tensor seed, Tensor sample_ids, SymInt height, SymInt width, "
    "SymInt num_samples_masked, int low, int high, SymInt min_block, SymInt max_block, "
    "int log2_min_aspect, int log2_max_aspect) -> Tensor",
    reference=reference.ibot_mask,
    fake=_fake,
    triton=True,
    gpu_order=("compiled", "triton"),
)
