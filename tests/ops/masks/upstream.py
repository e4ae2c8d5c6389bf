"""The laws of others' masks in NumPy and float64, many samples at a time, and how to compare masks.

Written from the descriptions of mmpretrain's BEiTMaskGenerator, DINOv2's MaskingGenerator,
SlowFast's MaskingGenerator3D and I-JEPA's MaskCollator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_fast.ops.masks import arguments

# ---- Laws ---------------------------------------------------------------------------------------


def propose(
    law: arguments.BlockLaw, cap: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[Any], ...]:
    """Sides and places of blocks, one for each cap; height 0 for one that does not fit."""
    area = law.min_block + rng.random(len(cap)) * (cap - law.min_block)
    low, high = law.log2_min_aspect / 2**24, law.log2_max_aspect / 2**24
    aspect = np.exp2(rng.uniform(low, high, len(cap)))
    height = np.rint(np.sqrt(area * aspect)).astype(int)
    width = np.rint(np.sqrt(area / aspect)).astype(int)
    fits = (height < law.height) & (width < law.width)
    height, width = np.where(fits, height, 0), np.where(fits, width, 0)
    places = 0 if law.exclusive else 1
    top = rng.integers(0, law.height - height + places)
    left = rng.integers(0, law.width - width + places)
    return height, width, top, left


def sample_blocks(
    law: arguments.BlockLaw,
    counts: NDArray[Any],
    seed: int,
    max_failed: int | None = None,
    frames: int | None = None,
) -> NDArray[np.bool_]:
    """Masks by tries of blocks, until `counts` cells are masked or `max_failed` tries in a row are
    in vain: [N, h, w]. With `frames` blocks last for some of them and their areas know no cap:
    [N, frames, h, w].
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros((len(counts), frames or 1, law.height, law.width), bool)
    remaining, failed = counts.copy(), np.zeros(len(counts), int)
    z = np.arange(frames or 1)[:, None, None]
    rows, columns = np.arange(law.height)[:, None], np.arange(law.width)
    while len(active := np.flatnonzero((remaining > 0) & (failed != max_failed))):
        cap = remaining[active]
        if frames is None:
            cap = np.minimum(cap, law.max_block)
        area = cap if frames is None else np.full(len(cap), law.max_block)
        parts = propose(law, area, rng)
        height, width, top, left = (part[:, None, None, None] for part in parts)
        block = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
        if frames is not None:
            duration = rng.integers(1, frames + 1, len(cap))
            front = rng.integers(0, frames - duration + 1)
            duration, front = (part[:, None, None, None] for part in (duration, front))
            block = block & (z >= front) & (z < front + duration)
        new = (block & ~mask[active]).sum(axis=(1, 2, 3))
        accepted = (new > 0) & (new <= cap)
        mask[active] |= block & accepted[:, None, None, None]
        remaining[active] -= new * accepted
        failed[active] = (failed[active] + 1) * ~accepted
    return mask[:, 0] if frames is None else mask


def sample_multiblock(
    law: arguments.MultiblockLaw, count: int, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Targets [N, T, h, w] and contexts [N, C, h, w] of I-JEPA, before they are cut."""
    rng = np.random.default_rng(seed)
    rows, columns = np.arange(law.height)[:, None], np.arange(law.width)

    def place(samples: int, height: int, width: int) -> NDArray[np.bool_]:
        last = 0 if law.exclusive else 1
        top = rng.integers(0, law.height - height + last, samples)[:, None, None]
        left = rng.integers(0, law.width - width + last, samples)[:, None, None]
        inside = (rows >= top) & (rows < top + height)
        return inside & (columns >= left) & (columns < left + width)

    targets = [place(count, law.target_height, law.target_width) for _ in range(law.num_targets)]
    contexts = np.zeros((count, law.num_contexts, law.height, law.width), bool)
    for c in range(law.num_contexts):
        active, tries = np.arange(count), 0
        while len(active):
            block = place(len(active), law.context_height, law.context_width)
            avoided = 0 if law.overlap else max(law.num_targets - tries // 20, 0)
            for target in targets[:avoided]:
                block &= ~target[active]
            contexts[active, c] = block
            active = active[block.sum(axis=(1, 2)) <= law.min_keep]
            tries += 1
    return np.stack(targets, axis=1), contexts


# ---- Comparisons --------------------------------------------------------------------------------


def too_far(statistic: float, freedom: int) -> bool:
    """Whether a chi-square statistic is more than 5 standard deviations above its mean."""
    return statistic > freedom + 5 * np.sqrt(2 * freedom)


def difference_of_counts(first: NDArray[Any], second: NDArray[Any]) -> tuple[float, int]:
    """Chi-square statistic of two samples of non-negative integers, and its degrees of freedom."""
    size = 1 + max(first.max(), second.max())
    counts = np.stack([np.bincount(sample, minlength=size) for sample in (first, second)])
    common = counts.sum(axis=0) >= 20
    rare = counts[:, ~common].sum(axis=1, keepdims=True)
    counts = np.hstack([counts[:, common], rare]) if rare.sum() else counts[:, common]
    total = counts.sum(axis=1, keepdims=True)
    expected = total * counts.sum(axis=0) / counts.sum()
    return float(((counts - expected) ** 2 / expected).sum()), counts.shape[1] - 1


def difference_of_frequencies(
    first: NDArray[np.bool_], second: NDArray[np.bool_]
) -> tuple[float, int]:
    """The same for how often each cell is masked: cells of a mask are not independent, so the
    differences are weighed by the inverse of their covariance (Hotelling)."""
    samples = [masks.reshape(len(masks), -1).astype(float) for masks in (first, second)]
    gap = samples[0].mean(axis=0) - samples[1].mean(axis=0)
    covariance = sum(np.cov(sample, rowvar=False) / len(sample) for sample in samples)
    inverse = np.linalg.pinv(covariance, rcond=1e-9, hermitian=True)
    return float(gap @ inverse @ gap), int(np.linalg.matrix_rank(covariance, rtol=1e-9))


def edges(masks: NDArray[np.bool_]) -> NDArray[Any]:
    """How often masked and free cells are neighbours in a row, for each mask: sizes of blocks."""
    return (masks[:, :, 1:] != masks[:, :, :-1]).sum(axis=(1, 2))
