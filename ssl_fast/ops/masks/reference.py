"""Mask sampling in plain torch: the specification, and what runs where no kernel can.

All arithmetic is on integers, so that every backend gives the same bits; csrc/masks/ has the
kernels and says why each step is as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...random import WORD, Stream, philox, words_of
from .arguments import BlockLaw

MAX_FAILED_TRIES = 320  # in a row; then single cells fill the rest
# 2^f, f in 0 .. 1, in 28 fractional bits, highest power first: exact at 0 and 1, else to 3.4e-6.
POWER_OF_TWO = (3638843, 13967333, 64794887, 186034393, 268435456)


# ---- Random masks -------------------------------------------------------------------------------


def random_mask(
    seed: Tensor, sample_ids: Tensor, length: int, num_kept: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Seed [1] and sample ids [N] to ids_keep [N, K], ids_restore and mask [N, length]."""
    draws = torch.arange((length + 3) // 4, device=seed.device)
    words = draw_words(seed, sample_ids[:, None], draws, Stream.RANDOM_MASK)
    keys = torch.stack(words, dim=2).flatten(1)[:, :length]
    return random_mask_from_noise(keys, num_kept)


def random_mask_from_noise(noise: Tensor, num_kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys [N, L] of any type to ids_keep [N, K], ids_restore and mask [N, L]."""
    order = noise.argsort(dim=1, stable=True)
    ranks = torch.arange(noise.shape[1], device=noise.device).expand_as(order)
    ids_restore = torch.empty_like(order).scatter_(1, order, ranks)
    return order[:, :num_kept].contiguous(), ids_restore, (ids_restore >= num_kept).float()


# ---- Block masks --------------------------------------------------------------------------------


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
    law = BlockLaw(
        height,
        width,
        num_masked,
        min_block,
        max_block,
        log2_min_aspect,
        log2_max_aspect,
        exclusive,
    )
    mask = torch.zeros(len(sample_ids), height, width, dtype=torch.bool, device=seed.device)
    remaining = torch.full_like(sample_ids, num_masked)
    failed, draw = torch.zeros_like(sample_ids), torch.zeros_like(sample_ids)
    while len(active := ((remaining > 0) & (failed < MAX_FAILED_TRIES)).nonzero()[:, 0]):
        random = draw_words(seed, sample_ids[active], draw[active], Stream.BLOCK_MASK)
        cap = remaining[active].clamp(max=max_block)
        block = rectangle(law, *propose(law, random, cap))
        new = (block & ~mask[active]).flatten(1).sum(dim=1)
        accepted = (new > 0) & (new <= cap)
        mask[active] |= block & accepted[:, None, None]
        remaining[active] -= new * accepted
        failed[active] = (failed[active] + 1) * ~accepted
        draw[active] += 1
    while len(active := (remaining > 0).nonzero()[:, 0]):
        word = draw_words(seed, sample_ids[active], draw[active], Stream.BLOCK_MASK)[0]
        free = ~mask[active].flatten(1)
        rank = free.cumsum(dim=1)  # from 1
        chosen = scale_to(word, rank[:, -1]) + 1
        mask[active] |= (free & (rank == chosen[:, None])).view(-1, height, width)
        remaining[active] -= 1
        draw[active] += 1
    return mask


def draw_words(seed: Tensor, sample_ids: Tensor, draw: Tensor, stream: int) -> tuple[Tensor, ...]:
    """Four random words for the draw-th decision on each sample: [N] int64 each, below 2^32."""
    return philox((*words_of(sample_ids), draw, stream), words_of(seed))


def scale_to(word: Tensor, count: Tensor) -> Tensor:
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
