"""Blocks in Triton, on integers: the same bits as csrc/masks/, where the laws are told. A program
takes a sample and holds its grid, a lane for each cell.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...random import Stream
from . import reference
from .triton_words import words

MAX_GRID = 4096  # cells that a program holds; larger grids are the reference's
BATCH = tl.constexpr(64)  # keys that are compared at once
SLICE = tl.constexpr(15)
IBOT_STREAM = tl.constexpr(int(Stream.IBOT_MASK))
MULTIBLOCK_STREAM = tl.constexpr(int(Stream.MULTIBLOCK_MASK))
CONTEXT_TRIES = tl.constexpr(reference.CONTEXT_TRIES)


@triton.jit
def _scale(word, count):
    """A random word to 0 .. count - 1."""
    return ((word.to(tl.int64) * count) >> 32).to(tl.int32)


@triton.jit
def _side(area, log2_aspect):
    """round(sqrt(area * 2^log2_aspect)): see csrc/masks/block_mask_math.h."""
    exponent = log2_aspect >> 24
    fraction = log2_aspect & 0xFFFFFF
    power = ((fraction * 3638843) >> 24) + 13967333
    power = ((power * fraction) >> 24) + 64794887
    power = ((power * fraction) >> 24) + 186034393
    power = ((power * fraction) >> 24) + 268435456
    fourfold = tl.minimum((area * power) >> (42 - exponent), 0xFFFFFFFF)
    root = tl.sqrt(fourfold.to(tl.float32)).to(tl.int64)  # at most one off
    root = root - (root * root > fourfold).to(tl.int64)
    root = root + ((root + 1) * (root + 1) <= fourfold).to(tl.int64)
    return ((root + 1) // 2).to(tl.int32)


@triton.jit
def _propose(a, b, c, d, cap, height, width, min_block, low, high, places):
    """Top, left, height and width of the block of four words; both sides 0 if it does not fit."""
    area = (min_block.to(tl.int64) << 16) + (
        ((cap - min_block).to(tl.int64) * a.to(tl.int64)) >> 16
    )
    aspect = low + (((high - low).to(tl.int64) * b.to(tl.int64)) >> 32)
    rows = _side(area, aspect)
    columns = _side(area, -aspect)
    fits = ((rows < height) & (columns < width)).to(tl.int32)
    rows = rows * fits
    columns = columns * fits
    top = _scale(c, height - rows + places)
    left = _scale(d, width - columns + places)
    return top, left, rows, columns


@triton.jit
def _ibot_count(seed, ids, row, count, id_stride, samples, low, high):
    """How many cells iBOT masks in a sample: its rank in the batch by a key, then its slice."""
    mine, word, _c, _d = words(
        seed, tl.load(ids + row * id_stride), (row * 0).to(tl.int32), IBOT_STREAM
    )
    mine = mine.to(tl.int64)
    rank = row * 0
    for first in range(0, count, BATCH):
        other = (first + tl.arange(0, BATCH)).to(tl.int64)
        there = other < count
        sample_id = tl.load(ids + other * id_stride, mask=there, other=0)
        key, _e, _f, _g = words(seed, sample_id, tl.zeros((BATCH,), tl.int32), IBOT_STREAM)
        key = key.to(tl.int64)
        before = there & ((key < mine) | ((key == mine) & (other < row)))
        rank += tl.sum(before.to(tl.int64))
    span = high - low
    begin = (span * rank + samples - 1) // samples
    end = (span * (rank + 1) + samples - 1) // samples
    share = ((end - begin) * word.to(tl.int64)) >> 32
    wanted = ((low + begin + share) >> SLICE).to(tl.int32)
    return tl.where(rank < samples, wanted, 0)


@triton.jit
def _block_kernel(
    seed_at, ids, out, count, id_stride, frames, height, width, num_masked,
    min_block, max_block, low, high, places, first_draw, max_failed, samples, slice_low, slice_high,
    STREAM: tl.constexpr, FILL: tl.constexpr, VIDEO: tl.constexpr, IBOT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Tries of blocks one after another, then, with FILL, single cells."""
    row = tl.program_id(0).to(tl.int64)
    seed = tl.load(seed_at)
    sample_id = tl.load(ids + row * id_stride)
    cells = frames * height * width
    cell = tl.arange(0, BLOCK)
    frame = cell // (height * width)
    y = cell // width % height
    x = cell % width
    free = (cell < cells).to(tl.int32)
    zero = (row * 0).to(tl.int32)  # a number equal to 1 comes as a constant, which cannot change
    remaining = zero + num_masked
    if IBOT:
        remaining = _ibot_count(seed, ids, row, count, id_stride, samples, slice_low, slice_high)
    failed = zero
    draw = zero + first_draw
    while (remaining > 0) & (failed < max_failed):
        a, b, c, d = words(seed, sample_id, draw, STREAM)
        cap = remaining
        area_cap = zero + max_block
        if not VIDEO:
            area_cap = tl.minimum(remaining, max_block)
            cap = area_cap
        top, left, rows, columns = _propose(
            a, b, c, d, area_cap, height, width, zero + min_block, low, high, places
        )
        inside = (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)
        draw += 1
        if VIDEO:
            a, b, c, d = words(seed, sample_id, draw, STREAM)
            duration = _scale(a, frames) + 1
            front = _scale(b, frames - duration + 1)
            inside = inside & (frame >= front) & (frame < front + duration)
            draw += 1
        new = tl.sum(inside.to(tl.int32) * free)
        accepted = ((new > 0) & (new <= cap)).to(tl.int32)
        free = free * (1 - inside.to(tl.int32) * accepted)
        remaining -= new * accepted
        failed = (failed + 1) * (1 - accepted)
    if FILL:
        while remaining > 0:
            a, b, c, d = words(seed, sample_id, draw, STREAM)
            rank = tl.cumsum(free, 0)
            chosen = _scale(a, tl.sum(free)) + 1
            free = free * (1 - (rank == chosen).to(tl.int32))
            remaining -= 1
            draw += 1
    tl.store(out + row * cells + cell, 1 - free, mask=cell < cells)


@triton.jit
def _multiblock_kernel(
    seed_at, ids, targets, contexts, id_stride, height, width, num_targets, target_h, target_w,
    num_contexts, context_h, context_w, min_keep, places,
    OVERLAP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    seed = tl.load(seed_at)
    sample_id = tl.load(ids + row * id_stride)
    cells = height * width
    cell = tl.arange(0, BLOCK)
    y = cell // width
    x = cell % width
    size = target_h * target_w
    # The first target that covers a cell: it is free while fewer are avoided.
    covered_by = cell * 0 + num_targets
    zero = (row * 0).to(tl.int32)
    draw = zero
    for t in range(num_targets):
        a, b, _, _ = words(seed, sample_id, draw, MULTIBLOCK_STREAM)
        top = _scale(a, height - target_h + places)
        left = _scale(b, width - target_w + places)
        inside = (y >= top) & (y < top + target_h) & (x >= left) & (x < left + target_w)
        place = (y - top) * target_w + x - left
        at = targets + (row * num_targets + t) * size + place
        tl.store(at, cell.to(tl.int64), mask=inside)
        covered_by = tl.where(inside & (covered_by == num_targets), t, covered_by)
        draw += 1
    for c in range(num_contexts):
        kept = zero - 1
        tries = zero
        free = cell * 0
        while kept <= min_keep:
            avoided = zero
            if not OVERLAP:
                avoided = tl.maximum(num_targets - tries // CONTEXT_TRIES, 0)
            a, b, _, _ = words(seed, sample_id, draw, MULTIBLOCK_STREAM)
            top = _scale(a, height - context_h + places)
            left = _scale(b, width - context_w + places)
            inside = (y >= top) & (y < top + context_h) & (x >= left) & (x < left + context_w)
            free = (inside & (covered_by >= avoided)).to(tl.int32)
            kept = tl.sum(free)
            draw += 1
            tries += 1
        tl.store(contexts + (row * num_contexts + c) * cells + cell, free, mask=cell < cells)


def _sample(seed, ids, rule, law, frames=1, ibot=None):
    """bool [N, frames, h, w]; law in the order of BlockLaw."""
    height, width, num_masked, min_block, max_block, low, high, exclusive = law
    out = ids.new_empty((ids.shape[0], frames, height, width), dtype=torch.bool)
    samples, slice_low, slice_high = ibot or (0, 0, 0)
    if out.numel():
        _block_kernel[(ids.shape[0],)](
            seed, ids, out.view(torch.uint8), ids.shape[0], ids.stride(0), frames, height, width,
            num_masked, min_block, max_block, low, high, 1 - exclusive, rule.first_draw,
            rule.max_failed, samples, slice_low, slice_high,
            STREAM=int(rule.stream), FILL=rule.fill, VIDEO=rule.video, IBOT=samples > 0,
            BLOCK=triton.next_power_of_2(frames * height * width),
            num_warps=1 if frames * height * width <= 512 else 4,
        )  # fmt: skip
    return out


def block_mask(seed: Tensor, sample_ids: Tensor, height: int, width: int, *law: int):
    """Launcher of `ssl_fast::block_mask`; grids over MAX_GRID go to the reference."""
    if height * width > MAX_GRID:
        return reference.block_mask(seed, sample_ids, height, width, *law)
    return _sample(seed, sample_ids, reference.BLOCK_RULE, (height, width, *law))[:, 0]


def cube_mask(seed: Tensor, sample_ids: Tensor, frames: int, height: int, width: int, *law: int):
    """Launcher of `ssl_fast::cube_mask`; grids over MAX_GRID go to the reference."""
    if frames * height * width > MAX_GRID:
        return reference.cube_mask(seed, sample_ids, frames, height, width, *law)
    return _sample(seed, sample_ids, reference.CUBE_RULE, (height, width, *law, False), frames)


def ibot_mask(
    seed: Tensor,
    sample_ids: Tensor,
    height: int,
    width: int,
    num_samples_masked: int,
    low: int,
    high: int,
    *law: int,
):
    """Launcher of `ssl_fast::ibot_mask`; grids over MAX_GRID go to the reference."""
    ibot = (num_samples_masked, low, high)
    if height * width > MAX_GRID:
        return reference.ibot_mask(seed, sample_ids, height, width, *ibot, *law)
    law = (height, width, 0, *law, False)
    return _sample(seed, sample_ids, reference.IBOT_RULE, law, ibot=ibot)[:, 0]


def multiblock_mask(
    seed: Tensor, sample_ids: Tensor, height: int, width: int, num_targets: int, *law: int
):
    """Launcher of `ssl_fast::multiblock_mask`; grids over MAX_GRID go to the reference."""
    if height * width > MAX_GRID:
        return reference.multiblock_mask(seed, sample_ids, height, width, num_targets, *law)
    target_h, target_w, num_contexts, context_h, context_w, min_keep, overlap, exclusive = law
    count = sample_ids.shape[0]
    targets = sample_ids.new_empty((count, num_targets, target_h * target_w))
    contexts = sample_ids.new_empty((count, num_contexts, height, width), dtype=torch.bool)
    if count:
        _multiblock_kernel[(count,)](
            seed, sample_ids, targets, contexts.view(torch.uint8), sample_ids.stride(0),
            height, width, num_targets, target_h, target_w, num_contexts, context_h, context_w,
            min_keep, 1 - exclusive,
            OVERLAP=overlap, BLOCK=triton.next_power_of_2(height * width),
            num_warps=1 if height * width <= 512 else 4,
        )  # fmt: skip
    return targets, contexts
