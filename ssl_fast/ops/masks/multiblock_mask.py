"""I-JEPA's blocks: several to be predicted, one to predict from.

Source: Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive
Architecture" (2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..._dispatch import register
from ...random import device_of, multiblock_words, sample_id_tensor, seed_tensor
from . import reference
from .arguments import check_int, multiblock_law
from .random_mask import first_by_noise, permuted


def multiblock_mask(
    num_samples: int,
    grid: tuple[int, int],
    num_targets: int = 4,
    num_contexts: int = 1,
    target_scale: tuple[float, float] = (0.15, 0.2),
    context_scale: tuple[float, float] = (0.85, 1.0),
    target_aspect: tuple[float, float] = (0.75, 1.5),
    min_keep: int = 10,
    allow_overlap: bool = False,
    *,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
    compat: str | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Patches to keep for the context encoder, and patches to predict.

    The sizes of the blocks are drawn once for the batch, from the seed alone: int(h * w * scale)
    cells, the scale uniform, height / width uniform for targets and 1 for contexts, the sides
    rounded and at most those of the grid. Each sample draws places, uniform. A context is a block
    without its sample's targets; one with `min_keep` cells or fewer is drawn again, and after each
    20 times in vain one target less is left out. Contexts are cut to the fewest cells that one has
    in this batch, each to a random subset; which cells it is cut from depends on the seed and its
    sample id alone. `ssl_fast.host.multiblock_mask` gives the same in NumPy.

    The number of cells is known to the device: on a GPU the call waits for it.

    Args:
        num_samples: B.
        grid: height and width in patches; at most 65,536 cells.
        num_targets, num_contexts: blocks of each sample.
        target_scale, context_scale: least and greatest share of the grid, in [0, 1].
        target_aspect: least and greatest height / width of targets.
        min_keep: a context has more cells than this, or is a whole block.
        allow_overlap: whether contexts keep the cells of targets.
        seed: an int, one int64, or None: drawn from torch's generator. The same on all ranks gives
            the same sizes on all.
        sample_ids: [B] int64; None for 0 .. B - 1. Give each rank its own.
        device: where; None for that of `seed` or `sample_ids`, else torch's default.
        compat: "ijepa" for the law of its code: the last row and column are never used, sides are
            those of the grid less 1 at most, one random number makes scale and aspect, and contexts
            are cut to their first cells in raster order.

    Returns:
        contexts and targets, as I-JEPA's collator: lists of int64 [B, K], the cells of each context
        and of each target, ascending.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """
    check_int("num_samples", num_samples, 0)
    where = device_of(device, seed, sample_ids)
    seeds = seed_tensor(seed, where)
    ids = sample_id_tensor(sample_ids, num_samples, where)
    law = multiblock_law(
        grid,
        num_targets,
        num_contexts,
        target_scale,
        context_scale,
        target_aspect,
        min_keep,
        allow_overlap,
        compat,
        multiblock_words(int(seeds)),
    )
    targets, contexts = _multiblock_mask(seeds, ids, *law)
    kept = contexts.flatten(2)
    size = int(kept.sum(dim=2).min()) if num_samples else 0
    if compat is None:
        order = permuted(seeds, ids, num_samples, kept.shape[2], 0)[1][:, None]
    else:
        order = torch.arange(kept.shape[2], device=where)
    # Cells of the context come first, then the others.
    noise = torch.where(kept, order, order + kept.shape[2]).float().flatten(0, 1)
    cut = first_by_noise(noise, size).sort(dim=1).values
    lists = cut.view(num_samples, num_contexts, size).unbind(1)
    return [part.contiguous() for part in lists], [part.contiguous() for part in targets.unbind(1)]


def _fake(
    seed: Tensor,
    sample_ids: Tensor,
    height: int,
    width: int,
    num_targets: int,
    target_height: int,
    target_width: int,
    num_contexts: int,
    *rest: int | bool,
) -> tuple[Tensor, Tensor]:
    count = sample_ids.shape[0]
    return (
        sample_ids.new_empty((count, num_targets, target_height * target_width)),
        sample_ids.new_empty((count, num_contexts, height, width), dtype=torch.bool),
    )


_multiblock_mask = register(
    "multiblock_mask(Tensor seed, Tensor sample_ids, SymInt height, SymInt width, "
    "SymInt num_targets, SymInt target_height, SymInt target_width, SymInt num_contexts, "
    "SymInt context_height, SymInt context_width, SymInt min_keep, bool overlap, bool exclusive)"
    " -> (Tensor, Tensor)",
    reference=reference.multiblock_mask,
    fake=_fake,
    triton=True,
    gpu_order=("compiled", "triton"),
)
