"""Blockwise masks: those of BEiT, MaskFeat and CAE.

Source: Bao et al., "BEiT: BERT Pre-Training of Image Transformers" (2022), as in mmpretrain's
BEiTMaskGenerator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..._dispatch import register
from ...random import device_of, sample_id_tensor, seed_tensor
from . import reference
from .arguments import block_law, check_int


def block_mask(
    num_samples: int,
    grid: tuple[int, int],
    num_masked: int,
    min_block: int = 4,
    max_block: int | None = None,
    min_aspect: float = 0.3,
    max_aspect: float | None = None,
    *,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
    compat: str | None = None,
) -> Tensor:
    """Masks of rectangular blocks, with exactly `num_masked` cells each.

    Blocks are tried until enough is masked. A try: the cap is what remains, at most `max_block`;
    the area is uniform between `min_block` and the cap, height / width log-uniform in the aspects,
    the sides rounded; the place is uniform. It counts if the block is smaller than the grid in both
    directions and masks at least one new cell and no more than the cap. After 320 tries in vain,
    where blocks hardly fit, single free cells drawn uniformly fill the rest.

    A mask depends on the seed and its sample id alone: not on the batch, the device or the backend.
    `ssl_fast.host.block_mask` gives the same in NumPy.

    Args:
        num_samples: N.
        grid: height and width in patches; at most 65,536 cells.
        num_masked: cells to mask in each sample, 0 to height * width.
        min_block: least area of a block in cells. Blocks of the end may be smaller.
        max_block: most new cells of a block; None for `num_masked`.
        min_aspect: least height / width, 1e-6 to 1e6.
        max_aspect: greatest; None for 1 / `min_aspect`.
        seed: an int, one int64 on the device, or None: drawn from torch's generator.
        sample_ids: [N] int64; None for 0 .. N - 1. Give each rank its own, or dataset indices.
        device: where; None for that of `seed` or `sample_ids`, else torch's default.
        compat: "mmpretrain" for the places of its generator, which never reach the last row and
            column but by the filling at the end (there it would loop for ever).

    Returns:
        bool [N, height, width], True where masked.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """
    check_int("num_samples", num_samples, 0)
    law = block_law(grid, num_masked, min_block, max_block, min_aspect, max_aspect, compat)
    where = device_of(device, seed, sample_ids)
    seeds = seed_tensor(seed, where)
    return _block_mask(seeds, sample_id_tensor(sample_ids, num_samples, where), *law)


def _fake(seed: Tensor, sample_ids: Tensor, height: int, width: int, *rest: int | bool) -> Tensor:
    return sample_ids.new_empty((sample_ids.shape[0], height, width), dtype=torch.bool)


_block_mask = register(
    "block_mask(Tensor seed, Tensor sample_ids, SymInt height, SymInt width, SymInt num_masked, "
    "SymInt min_block, SymInt max_block, int log2_min_aspect, int log2_max_aspect, bool exclusive)"
    " -> Tensor",
    reference=reference.block_mask,
    fake=_fake,
    triton=True,
    gpu_order=("compiled", "triton"),  # CUDA C++ takes 32 tries at once
)
