"""Mask sampling in plain torch: the specification, and what runs where no kernel can.

All arithmetic is on integers, so that every backend gives the same bits; csrc/masks/ has the
kernels and says why each step is as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...random import WORD, Stream, philox, words_of
from .arguments import SLICE_BITS, BlockLaw

CONTEXT_TRIES = 20  # of I-JEPA, before a target less is avoided
# 2^f, f in 0 .. 1, in 28 fractional bits, highest power first: exact at 0 and 1, else to 3.4e-6.
POWER_OF_TWO = (3638843, 13967333, 64794887, 186034393, 268435456)


# ---- Random masks -------------------------------------------------------------------------------


def random_mask(
    seed: Tensor, sample_ids: Tensor | None, num_samples: int, length: int, num_kept: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Seed [1] and sample ids [N], None for 0 .. N - 1, to ids_keep [N, K], ids_restore and mask
    [N, length].
    """
    if sample_ids is None:
        sample_ids = torch.arange(num_samples, device=seed.device)
    draws = torch.arange((length + 3) // 4, device=seed.device)
    words = draw_words(seed, sample_ids[:, None], draws, Stream.RANDOM_MASK)
    keys = torch.stack(words, dim=2).flatten(1)[:, :length]
    return random_mask_from_noise(keys, num_kept)


def random_mask_from_noise(noise: Tensor, num_kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys [N, L] of any type to ids_keep [N, K], ids_restore and mask [N, L]."""
    if noise.is_floating_point():  # CUDA's sort of long rows puts a NaN with a minus sign first
        noise = noise.masked_fill(noise.isnan(), torch.nan)
    order = noise.argsort(dim=1, stable=True)
    ranks = torch.arange(noise.shape[1], device=noise.device).expand_as(order)
    ids_restore = torch.empty_like(order).scatter_(1, order, ranks)
    return order[:, :num_kept].contiguous(), ids_restore, (ids_restore >= num_kept).float()


# ---- Block masks --------------------------------------------------------------------------------


class Rule(NamedTuple):
    """What a sampler of blocks does beside proposing them: csrc/masks/block_mask_math.h.

    Attributes:
        max_failed: tries in vain, in a row; then the rest is left, or filled by single cells.
        video: whether blocks last for several frames; then their areas know no cap.
    """

    stream: Stream
    first_draw: int
    max_failed: int
    fill: bool
    video: bool


BLOCK_RULE = Rule(Stream.BLOCK_MASK, 0, 320, True, False)
IBOT_RULE = Rule(Stream.IBOT_MASK, 1, 10, False, False)
CUBE_RULE = Rule(Stream.CUBE_MASK, 0, 100, False, True)


def block_mask(
    seed: Tensor,
    sample_ids: Tensor,
    height: int,
    width: int,
    num_masked: int,
    min_block: int,
    max_block: int,
    log2_min_aspect: int,
    log2_max_aspect: int,
    exclusive: bool,
) -> Tensor:
    """Seed [1] and sample ids [N] to bool [N, height, width] with num_masked True in each."""
    aspects = (log2_min_aspect, log2_max_aspect)
    law = BlockLaw(height, width, num_masked, min_block, max_block, *aspects, exclusive)
    counts = torch.full_like(sample_ids, num_masked)
    return _sample_blocks(seed, sample_ids, law, BLOCK_RULE, counts)[:, 0]


def cube_mask(
    seed: Tensor,
    sample_ids: Tensor,
    frames: int,
    height: int,
    width: int,
    num_masked: int,
    min_block: int,
    max_block: int,
    log2_min_aspect: int,
    log2_max_aspect: int,
) -> Tensor:
    """Seed [1] and sample ids [N] to bool [N, frames, height, width]."""
    aspects = (log2_min_aspect, log2_max_aspect)
    law = BlockLaw(height, width, num_masked, min_block, max_block, *aspects, False)
    counts = torch.full_like(sample_ids, num_masked)
    return _sample_blocks(seed, sample_ids, law, CUBE_RULE, counts, frames)


def ibot_mask(
    seed: Tensor,
    sample_ids: Tensor,
    height: int,
    width: int,
    num_samples_masked: int,
    low: int,
    high: int,
    min_block: int,
    max_block: int,
    log2_min_aspect: int,
    log2_max_aspect: int,
) -> Tensor:
    """Seed [1] and sample ids [N] to bool [N, height, width]."""
    aspects = (log2_min_aspect, log2_max_aspect)
    law = BlockLaw(height, width, 0, min_block, max_block, *aspects, False)
    zeros = torch.zeros_like(sample_ids)
    key, word, *_ = draw_words(seed, sample_ids, zeros, Stream.IBOT_MASK)
    rank = torch.empty_like(key).scatter_(
        0, key.argsort(stable=True), torch.arange(len(key), device=key.device)
    )
    slices = max(num_samples_masked, 1)
    begin, end = (((high - low) * i + slices - 1) // slices for i in (rank, rank + 1))
    counts = low + begin + ((end - begin) * word >> 32) >> SLICE_BITS
    counts = torch.where(rank < num_samples_masked, counts, 0)
    return _sample_blocks(seed, sample_ids, law, IBOT_RULE, counts)[:, 0]


def _sample_blocks(
    seed: Tensor, sample_ids: Tensor, law: BlockLaw, rule: Rule, counts: Tensor, frames: int = 1
) -> Tensor:
    """bool [N, frames, height, width] with counts [N] or, where the rule leaves a rest, less."""
    shape = (len(sample_ids), frames, law.height, law.width)
    mask = torch.zeros(shape, dtype=torch.bool, device=seed.device)
    remaining = counts.clone()
    failed, draw = torch.zeros_like(counts), torch.full_like(counts, rule.first_draw)
    while len(active := ((remaining > 0) & (failed < rule.max_failed)).nonzero()[:, 0]):
        random = draw_words(seed, sample_ids[active], draw[active], rule.stream)
        cap, area_cap = remaining[active], remaining[active].clamp(max=law.max_block)
        if rule.video:
            area_cap = torch.full_like(cap, law.max_block)
        else:
            cap = area_cap
        block = rectangle(law, *propose(law, random, area_cap))[:, None]
        if rule.video:
            random = draw_words(seed, sample_ids[active], draw[active] + 1, rule.stream)
            duration = scale_to(random[0], frames) + 1
            front = scale_to(random[1], frames - duration + 1)
            block = block & _interval(front, duration, frames)[:, :, None, None]
        new = (block & ~mask[active]).flatten(1).sum(dim=1)
        accepted = (new > 0) & (new <= cap)
        mask[active] |= block & accepted[:, None, None, None]
        remaining[active] -= new * accepted
        failed[active] = (failed[active] + 1) * ~accepted
        draw[active] += 2 if rule.video else 1
    while rule.fill and len(active := (remaining > 0).nonzero()[:, 0]):
        word = draw_words(seed, sample_ids[active], draw[active], rule.stream)[0]
        free = ~mask[active].flatten(1)
        rank = free.cumsum(dim=1)  # from 1
        chosen = scale_to(word, rank[:, -1]) + 1
        mask[active] |= (free & (rank == chosen[:, None])).view(-1, *shape[1:])
        remaining[active] -= 1
        draw[active] += 1
    return mask


# ---- I-JEPA's blocks ----------------------------------------------------------------------------


def multiblock_mask(
    seed: Tensor,
    sample_ids: Tensor,
    height: int,
    width: int,
    num_targets: int,
    target_height: int,
    target_width: int,
    num_contexts: int,
    context_height: int,
    context_width: int,
    min_keep: int,
    overlap: bool,
    exclusive: bool,
) -> tuple[Tensor, Tensor]:
    """Seed [1] and sample ids [N] to the targets' cells, int64 [N, T, K], and bool contexts
    [N, C, height, width]: csrc/masks/multiblock_mask.h has the law.
    """
    grid = BlockLaw(height, width, 0, 1, 1, 0, 0, exclusive)
    draws = torch.arange(num_targets, device=seed.device)
    random = draw_words(seed, sample_ids[:, None], draws, Stream.MULTIBLOCK_MASK)
    top, left = _place(grid, random, target_height, target_width)
    rows = top[..., None, None] + torch.arange(target_height, device=seed.device)[:, None]
    columns = left[..., None, None] + torch.arange(target_width, device=seed.device)
    targets = (rows * width + columns).flatten(2)

    contexts = torch.empty(
        (len(sample_ids), num_contexts, height, width), dtype=torch.bool, device=seed.device
    )
    # Cells that are left when the first 0 .. T targets are taken away.
    left_over = torch.ones(
        (num_targets + 1, len(sample_ids), height * width), dtype=torch.bool, device=seed.device
    )
    for t in range(num_targets):
        left_over[t + 1] = left_over[t].scatter(1, targets[:, t], False)
    draw = torch.full_like(sample_ids, num_targets)
    for c in range(num_contexts):
        active = torch.arange(len(sample_ids), device=seed.device)
        tries = 0
        while len(active):
            avoided = 0 if overlap else max(num_targets - tries // CONTEXT_TRIES, 0)
            random = draw_words(seed, sample_ids[active], draw[active], Stream.MULTIBLOCK_MASK)
            top, left = _place(grid, random, context_height, context_width)
            sides = (torch.full_like(top, context_height), torch.full_like(top, context_width))
            block = rectangle(grid, top, left, *sides).flatten(1) & left_over[avoided, active]
            contexts[active, c] = block.view(-1, height, width)
            draw[active] += 1
            active = active[block.sum(dim=1) <= min_keep]
            tries += 1
    return targets, contexts


def _place(
    grid: BlockLaw, random: tuple[Tensor, ...], height: int, width: int
) -> tuple[Tensor, Tensor]:
    places = 0 if grid.exclusive else 1
    top = scale_to(random[0], grid.height - height + places)
    return top, scale_to(random[1], grid.width - width + places)


# ---- What they are made of ----------------------------------------------------------------------


def draw_words(seed: Tensor, sample_ids: Tensor, draw: Tensor, stream: int) -> tuple[Tensor, ...]:
    """Four random words for the draw-th decision on each sample: [N] int64 each, below 2^32."""
    return philox((*words_of(sample_ids), draw, stream), words_of(seed))


def scale_to(word: Tensor, count: Tensor | int) -> Tensor:
    """A random word to 0 .. count - 1."""
    return word * count >> 32


def propose(law: BlockLaw, random: tuple[Tensor, ...], cap: Tensor) -> tuple[Tensor, ...]:
    """The block of a draw: top, left, height, width, [N] each; both sides 0 if it does not fit."""
    area = (law.min_block << 16) + ((cap - law.min_block) * random[0] >> 16)
    aspect = law.log2_min_aspect + ((law.log2_max_aspect - law.log2_min_aspect) * random[1] >> 32)
    height, width = side_of(area, aspect), side_of(area, -aspect)
    fits = (height < law.height) & (width < law.width)
    height, width = height * fits, width * fits
    places = 0 if law.exclusive else 1
    top = scale_to(random[2], law.height - height + places)
    left = scale_to(random[3], law.width - width + places)
    return top, left, height, width


def rectangle(law: BlockLaw, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Blocks as bool [N, height, width]."""
    rows = _interval(top, height, law.height)
    columns = _interval(left, width, law.width)
    return rows[:, :, None] & columns[:, None, :]


def side_of(area: Tensor, log2_aspect: Tensor) -> Tensor:
    """round(sqrt(area * 2^log2_aspect)), of an area with 16, a logarithm with 24 fraction bits."""
    exponent, fraction = log2_aspect >> 24, log2_aspect & 0xFFFFFF
    power = torch.zeros_like(fraction)
    for coefficient in POWER_OF_TWO:
        power = (power * fraction >> 24) + coefficient
    fourfold = (area * power >> (42 - exponent)).clamp(max=WORD)
    # Exact: float64 holds these integers, and its root of one is rounded right everywhere.
    return (fourfold.double().sqrt().long() + 1) // 2


def _interval(begin: Tensor, length: Tensor, size: int) -> Tensor:
    """[N, size]: whether begin <= i < begin + length."""
    i = torch.arange(size, device=begin.device)
    return (i >= begin[:, None]) & (i < (begin + length)[:, None])
