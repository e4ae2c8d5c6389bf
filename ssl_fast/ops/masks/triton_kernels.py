"""Random masks in Triton, on integers: the same bits as csrc/masks/, where the law is told."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...random import Stream
from . import reference
from .triton_blocks import block_mask, cube_mask, ibot_mask, multiblock_mask
from .triton_words import words

__all__ = [
    "block_mask",
    "cube_mask",
    "ibot_mask",
    "multiblock_mask",
    "random_mask",
    "random_mask_from_noise",
]

RANDOM_MASK = tl.constexpr(int(Stream.RANDOM_MASK))
# The largest row that a program sorts; longer ones are torch.sort's.
MAX_SORTED = 2048
# A token's number lies in the lower bits of what is sorted, its key above.
TOKEN_BITS = tl.constexpr(16)
TOKEN = tl.constexpr(0xFFFF)


@triton.jit
def _packed(
    seed, ids, noise, row, token, length, id_stride, stride_n, stride_l, there,
    NOISE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """key << TOKEN_BITS | token, int64; the largest number behind the row's end."""
    if NOISE:
        value = tl.load(noise + row * stride_n + token * stride_l, mask=there, other=0)
        value = value.to(tl.float32)
        value = tl.where(value == 0, 0.0, value)  # -0 as 0
        bits = value.to(tl.uint32, bitcast=True)
        key = tl.where((bits >> 31) != 0, bits ^ 0xFFFFFFFF, bits | 0x80000000)
        key = tl.where(value != value, 0xFFFFFFFF, key)
    else:
        sample_id = row  # where none are given
        if LISTED:
            sample_id = tl.load(ids + row * id_stride)
        a, b, c, d = words(tl.load(seed), sample_id, token // 4, RANDOM_MASK)
        word = token % 4
        key = tl.where(word < 2, tl.where(word == 0, a, b), tl.where(word == 2, c, d))
    packed = (key.to(tl.int64) << TOKEN_BITS) | token.to(tl.int64)
    return tl.where(there, packed, 0x7FFFFFFFFFFFFFFF)


@triton.jit
def _write_ranks(packed, row, rank, keep, restore, mask, length, kept, there):
    token = packed & TOKEN
    tl.store(keep + row * kept + rank, token, mask=there & (rank < kept))
    tl.store(restore + row * length + token, rank.to(tl.int64), mask=there)
    tl.store(mask + row * length + token, tl.where(rank < kept, 0.0, 1.0), mask=there)


@triton.jit
def _random_mask_kernel(
    seed, ids, noise, keep, restore, mask, length, kept, id_stride, stride_n, stride_l,
    NOISE: tl.constexpr, LISTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A row: packed, sorted, written."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    there = place < length
    packed = _packed(
        seed, ids, noise, row, place, length, id_stride, stride_n, stride_l, there, NOISE, LISTED
    )
    _write_ranks(tl.sort(packed), row, place, keep, restore, mask, length, kept, there)


@triton.jit
def _pack_kernel(
    seed, ids, noise, packed, length, id_stride, stride_n, stride_l,
    NOISE: tl.constexpr, LISTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = token < length
    value = _packed(
        seed, ids, noise, row, token, length, id_stride, stride_n, stride_l, there, NOISE, LISTED
    )
    tl.store(packed + row * length + token, value, mask=there)


@triton.jit
def _rank_kernel(packed, keep, restore, mask, length, kept, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    rank = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = rank < length
    value = tl.load(packed + row * length + rank, mask=there, other=0)
    _write_ranks(value, row, rank, keep, restore, mask, length, kept, there)


def _sorted_rows(like, count, length, kept, seed, ids, noise):
    keep = like.new_empty((count, kept), dtype=torch.int64)
    restore = like.new_empty((count, length), dtype=torch.int64)
    mask = like.new_empty((count, length), dtype=torch.float32)
    if count == 0:
        return keep, restore, mask
    by_noise = noise is not None
    # Pointers that NOISE leaves unused are some tensor's.
    listed = ids is not None
    inputs = (mask, mask, noise) if by_noise else (seed, ids if listed else seed, mask)
    strides = (0, *noise.stride()) if by_noise else (ids.stride(0) if listed else 0, 0, 0)
    if length <= MAX_SORTED:
        block = triton.next_power_of_2(length)
        _random_mask_kernel[(count,)](
            *inputs, keep, restore, mask, length, kept, *strides,
            NOISE=by_noise, LISTED=listed, BLOCK=block, num_warps=max(1, min(8, block // 128)),
        )  # fmt: skip
        return keep, restore, mask
    grid = (count, triton.cdiv(length, 1024))
    packed = like.new_empty((count, length), dtype=torch.int64)
    _pack_kernel[grid](*inputs, packed, length, *strides, NOISE=by_noise, LISTED=listed, BLOCK=1024)
    _rank_kernel[grid](packed.sort(dim=1).values, keep, restore, mask, length, kept, BLOCK=1024)
    return keep, restore, mask


def random_mask(
    seed: Tensor, sample_ids: Tensor | None, num_samples: int, length: int, num_kept: int
):
    """Launcher of `ssl_fast::random_mask`."""
    return _sorted_rows(seed, num_samples, length, num_kept, seed, sample_ids, None)


def random_mask_from_noise(noise: Tensor, num_kept: int):
    """Launcher of `ssl_fast::random_mask_from_noise`; float64 goes to the reference."""
    if noise.dtype == torch.float64:
        return reference.random_mask_from_noise(noise, num_kept)
    return _sorted_rows(noise, *noise.shape, num_kept, None, None, noise)
