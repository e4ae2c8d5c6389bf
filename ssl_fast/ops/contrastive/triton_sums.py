"""Log-sum-exp of rows and columns of a panel of similarities, at the speed of memory.

A program goes along a few rows. All rows of a column, and `GROUP` neighbours in a row, then lie in
one thread: its maxima and sums need no other threads but once, at a row's end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .pairwise import Pairs
from .triton_rows import target_of

BLOCK_ROWS = 16
BLOCK_COLUMNS = 512
GROUP = 4  # numbers of a row that a thread loads at a time
WARPS = 4
PROGRAMS = 1024  # at least, if need be by dividing rows
JOIN_BLOCK, JOIN_PARTS = 32, 64


@triton.jit
def exp_of(x):
    """exp(x) for x <= 0, in one instruction more than a product: `tl.exp` minds denormals."""
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def _panel_sums_kernel(
    dots, scale, targets, row_parts, column_parts, positive,
    first_row, row_end, first_column, column_end, per_program, self_offset, target_offset,
    HAS_TARGETS: tl.constexpr, HAS_SELF: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Sums of a tile of rows and a part of the columns, and the positives in it."""
    dtype = row_parts.dtype.element_ty
    rows = first_row + tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    width = column_end - first_column
    start, end = tl.program_id(1) * per_program, tl.program_id(1) * per_program + per_program
    panel_rows = (rows - first_row).to(tl.int64) * width
    factor = tl.load(scale)
    # Finite, so that nothing is subtracted from itself where all is left out.
    most = tl.full((BLOCK_R, BLOCK_C // GROUP), -2e38, dtype)
    total = tl.zeros((BLOCK_R, BLOCK_C // GROUP), dtype)
    for step in range(start, end, BLOCK_C):
        along = step + tl.arange(0, BLOCK_C)
        exists = (rows < row_end)[:, None] & (along < width)[None, :]
        tile = tl.load(dots + (panel_rows[:, None] + along[None, :]), mask=exists, other=0)
        if HAS_SELF:
            own = rows + self_offset - first_column
            exists = exists & (own[:, None] != along[None, :])
        logits = tl.where(exists, tile * factor, float("-inf"))
        grouped = tl.reshape(logits, (BLOCK_R, BLOCK_C // GROUP, GROUP))
        larger = tl.maximum(most, tl.max(grouped, axis=2))
        exponentials = exp_of(grouped - larger[:, :, None])
        total = total * exp_of(most - larger) + tl.sum(exponentials, axis=2)
        most = larger
        if COLUMNS:
            largest = tl.maximum(tl.max(logits, axis=0), -2e38)
            sums = tl.sum(exp_of(logits - largest[None, :]), axis=0)
            at = column_parts + tl.program_id(0).to(tl.int64) * column_end + first_column + along
            tl.store(at, largest + tl.log(sums), mask=along < width)
    largest = tl.max(most, axis=1)
    sums = tl.sum(total * exp_of(most - largest[:, None]), axis=1)
    at = row_parts + tl.program_id(1).to(tl.int64) * row_end + rows
    tl.store(at, largest + tl.log(sums), mask=rows < row_end)
    target = target_of(targets, rows, row_end, column_end, target_offset, HAS_TARGETS)
    found = (target >= first_column) & (target < column_end)
    mine = tl.where(found, (target - first_column) // per_program, 0) == tl.program_id(1)
    mine = mine & (rows < row_end)
    dot = tl.load(dots + panel_rows + (target - first_column), mask=mine & found, other=0)
    tl.store(positive + rows, dot * factor, mask=mine)


@triton.jit
def _join_kernel(
    row_parts, column_parts, row_lse, column_lse,
    first_row, row_end, first_column, column_end, number_of_rows, number_of_columns, row_blocks,
    MORE_ROWS: tl.constexpr, MORE_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of parts: of rows by the first programs, of columns by the others."""
    if tl.program_id(0) < row_blocks:
        at = first_row + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        _join(row_parts, row_lse, at, row_end, number_of_rows, MORE_ROWS, BLOCK, PARTS)
    else:
        at = first_column + (tl.program_id(0) - row_blocks) * BLOCK + tl.arange(0, BLOCK)
        _join(
            column_parts, column_lse, at, column_end, number_of_columns, MORE_COLUMNS, BLOCK, PARTS
        )


@triton.jit
def _join(
    parts, lse, at, end, number, MORE: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr
):
    """Of [number, end] at these places; MORE: together with what `lse` holds there."""
    dtype = lse.dtype.element_ty
    if MORE:
        most = tl.maximum(tl.load(lse + at, mask=at < end, other=0), -2e38)
        total = exp_of(tl.load(lse + at, mask=at < end, other=0) - most)
    else:
        most = tl.full((BLOCK,), -2e38, dtype)
        total = tl.zeros((BLOCK,), dtype)
    for start in range(0, number, PARTS):
        part = start + tl.arange(0, PARTS)
        exists = (part < number)[:, None] & (at < end)[None, :]
        where = part.to(tl.int64)[:, None] * end + at[None, :]
        values = tl.load(parts + where, mask=exists, other=float("-inf"))
        larger = tl.maximum(most, tl.max(values, axis=0))
        total = total * exp_of(most - larger) + tl.sum(exp_of(values - larger[None, :]), axis=0)
        most = larger
    tl.store(lse + at, most + tl.log(total), mask=at < end)


def add_panel(
    pairs: Pairs,
    dots: Tensor,
    begin: int,
    end: int,
    row_lse: Tensor,
    column_lse: Tensor | None,
    positive: Tensor,
) -> None:
    """Takes in the panel of these rows: against all columns, or of a symmetric matrix from `begin`.

    Args:
        dots: [end - begin, C or C - begin], contiguous inner products.
        row_lse: [R], written for these rows. Of a symmetric matrix [R] as well, to which later
            rows' parts are added, as seen by these.
        column_lse: [C], to which the panel is added; None where not wanted.
        positive: [R], written for these rows: 0 where the panel has no target.
    """
    height, width = dots.shape
    columns = len(pairs.columns)
    first, columns_too = columns - width, column_lse is not None or pairs.symmetric
    block = BLOCK_COLUMNS // 2 if dots.dtype == torch.float64 else BLOCK_COLUMNS
    tiles = -(-height // BLOCK_ROWS)
    splits = min(-(-PROGRAMS // tiles), -(-width // block))
    per_program = -(-width // (splits * block)) * block
    splits = -(-width // per_program)
    row_parts = pairs.new_empty(splits, end)
    column_parts = pairs.new_empty(tiles, columns) if columns_too else row_parts
    _panel_sums_kernel[(tiles, splits)](
        dots, pairs.scale, pairs.stored_targets, row_parts, column_parts, positive,
        begin, end, first, columns, per_program, pairs.self_offset, pairs.target_offset,
        HAS_TARGETS=pairs.positives_stored, HAS_SELF=pairs.self_offset >= 0, COLUMNS=columns_too,
        BLOCK_R=BLOCK_ROWS, BLOCK_C=block, GROUP=GROUP, num_warps=WARPS,
    )  # fmt: skip
    after = end if pairs.symmetric else 0  # the block on the diagonal has both halves
    row_blocks = -(-height // JOIN_BLOCK)
    column_blocks = -(-(columns - after) // JOIN_BLOCK) if columns_too else 0
    _join_kernel[(row_blocks + column_blocks,)](
        row_parts, column_parts, row_lse, row_lse if column_lse is None else column_lse,
        begin, end, after, columns, splits, tiles, row_blocks,
        MORE_ROWS=pairs.symmetric and begin > 0, MORE_COLUMNS=columns_too and begin > 0,
        BLOCK=JOIN_BLOCK, PARTS=JOIN_PARTS, num_warps=4,
    )  # fmt: skip
