"""Kernels that go through features row by row, beside those that go through similarities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from .pairwise import Pairs

BLOCK_ROWS, BLOCK_SIZE = 8, 128


@triton.jit
def target_of(targets, rows, row_end, column_end, offset, HAS_TARGETS: tl.constexpr):
    """The rows' positive columns, int32: stored ones, or those `offset` on, around the end."""
    if HAS_TARGETS:
        return tl.load(targets + rows, mask=rows < row_end, other=-1).to(tl.int32)
    target = rows + offset
    return tl.where(target >= column_end, target - column_end, target)


@triton.jit
def _positive_kernel(
    row_features, column_features, scale, targets, out,
    row_end, column_end, size, row_stride, size_stride, offset, self_offset,
    HAS_TARGETS: tl.constexpr, HAS_SELF: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """scale * <row, its target column>, for a number of rows."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    target = target_of(targets, rows, row_end, column_end, offset, HAS_TARGETS)
    found = (rows < row_end) & (target >= 0) & (target < column_end)
    dtype = out.dtype.element_ty
    total = tl.zeros((BLOCK_R, BLOCK_D), dtype)
    for start in range(0, size, BLOCK_D):
        along = start + tl.arange(0, BLOCK_D)
        exists = found[:, None] & (along < size)[None, :]
        a_at = rows.to(tl.int64)[:, None] * size + along[None, :]
        b_at = target.to(tl.int64)[:, None] * row_stride
        b_at += along.to(tl.int64)[None, :] * size_stride
        a = tl.load(row_features + a_at, mask=exists, other=0).to(dtype)
        b = tl.load(column_features + b_at, mask=exists, other=0).to(dtype)
        total += a * b
    logits = tl.sum(total, axis=1) * tl.load(scale)
    if HAS_SELF:
        logits = tl.where(target == rows + self_offset, float("-inf"), logits)
    tl.store(out + rows, tl.where(found, logits, 0.0), mask=rows < row_end)


def positive_logits(pairs: Pairs) -> Tensor:
    """scale * <row, its target column>, [R]; 0 where that is no column, -inf where left out."""
    count = len(pairs.rows)
    out = pairs.new_empty(count)
    if count:
        _positive_kernel[(-(-count // BLOCK_ROWS),)](
            pairs.rows, pairs.columns, pairs.scale, pairs.stored_targets, out,
            count, len(pairs.columns), pairs.rows.shape[1], *pairs.columns.stride(),
            pairs.target_offset, pairs.self_offset,
            HAS_TARGETS=pairs.positives_stored, HAS_SELF=pairs.self_offset >= 0,
            BLOCK_R=BLOCK_ROWS, BLOCK_D=BLOCK_SIZE, num_warps=4,
        )  # fmt: skip
    return out
