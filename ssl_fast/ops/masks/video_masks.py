"""Masks of videos: tubes, the same in all frames, and cubes.

Sources: Tong et al., "VideoMAE" (2022); Wei et al., "Masked Feature Prediction for Self-Supervised
Visual Pre-Training" (2022), as in SlowFast's MaskingGenerator3D.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..._dispatch import register
from ...random import device_of, optional_sample_ids, sample_id_tensor, seed_tensor
from . import reference
from .arguments import check_int, cube_law, tube_counts
from .block_mask import block_mask
from .random_mask import permuted


def tube_mask(
    num_samples: int,
    grid: tuple[int, int, int],
    mask_ratio: float,
    *,
    kind: str = "random",
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Masks of a video that are the same in all its frames.

    Of the h * w patches of a frame
    - kind "random" masks int(mask_ratio * h * w), the ones that `random_mask` masks (VideoMAE);
    - kind "block" masks round(mask_ratio * h * w) in blocks of a fifth of that or more, as
      `block_mask` does (MaskFeat in SlowFast).

    A mask depends on the seed and its sample id alone; `ssl_fast.host.tube_mask` gives the same.

    Args:
        num_samples: N.
        grid: frames, height and width in patches.
        mask_ratio: share of the patches masked, in [0, 1].
        kind: "random" or "block".
        seed, sample_ids, device: as for `random_mask`.

    Returns:
        bool [N, frames, height, width], True where masked.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """
    check_int("num_samples", num_samples, 0)
    (frames, height, width), num_masked, min_block = tube_counts(grid, mask_ratio, kind)
    where = device_of(device, seed, sample_ids)
    ids, seeds = optional_sample_ids(sample_ids, num_samples, where), seed_tensor(seed, where)
    if kind == "random":
        cells = height * width
        mask = permuted(seeds, ids, num_samples, cells, cells - num_masked)[2].bool()
    else:
        mask = block_mask(
            num_samples, (height, width), num_masked, min_block, seed=seeds, sample_ids=ids
        )
    mask = mask.view(num_samples, 1, height, width)
    return mask.expand(num_samples, frames, height, width).contiguous()


def cube_mask(
    num_samples: int,
    grid: tuple[int, int, int],
    mask_ratio: float,
    min_block: int | None = None,
    max_block: int | None = None,
    min_aspect: float = 0.3,
    max_aspect: float | None = None,
    *,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Masks of a video made of blocks that last for some frames (MaskFeat).

    Cubes are tried until round(mask_ratio * frames * h * w) cells are masked. A try: the area is
    uniform between `min_block` and `max_block`, height / width log-uniform in the aspects, the
    sides rounded; the duration is uniform in 1 .. frames, the place uniform. It counts if the block
    is smaller than a frame in both directions and masks at least one new cell and no more than are
    still to be masked. After 100 tries in vain the mask stays as it is: it may have fewer cells.

    A mask depends on the seed and its sample id alone; `ssl_fast.host.cube_mask` gives the same.

    Args:
        num_samples: N.
        grid: frames, height and width in patches; at most 65,536 cells.
        mask_ratio: share of the cells to mask, in [0, 1].
        min_block: least area of a block in cells; None for a fifth of a frame.
        max_block: greatest; None for a frame.
        min_aspect: least height / width, 1e-6 to 1e6.
        max_aspect: greatest; None for 1 / `min_aspect`.
        seed, sample_ids, device: as for `random_mask`.

    Returns:
        bool [N, frames, height, width], True where masked.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """
    check_int("num_samples", num_samples, 0)
    law = cube_law(grid, mask_ratio, min_block, max_block, min_aspect, max_aspect)
    where = device_of(device, seed, sample_ids)
    seeds = seed_tensor(seed, where)
    return _cube_mask(seeds, sample_id_tensor(sample_ids, num_samples, where), *law)


def _fake(
    seed: Tensor, sample_ids: Tensor, frames: int, height: int, width: int, *rest: int
) -> Tensor:
    shape = (sample_ids.shape[0], frames, height, width)
    return sample_ids.new_empty(shape, dtype=torch.bool)


_cube_mask = register(
    "cube_mask(Tensor seed, Tensor sample_ids, SymInt frames, SymInt height, SymInt width, "
    "SymInt num_masked, SymInt min_block, SymInt max_block, int log2_min_aspect, "
    "int log2_max_aspect) -> Tensor",
    reference=reference.cube_mask,
    fake=_fake,
    triton=True,
    gpu_order=("compiled", "triton"),
)
