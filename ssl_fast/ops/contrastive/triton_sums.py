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
            tl.store(at, largest, mask=along < width)
            after = tl.num_programs(0).to(tl.int64) * column_end
            tl.store(at + after, sums, mask=along < width)
    largest = tl.max(most, axis=1)
    sums = tl.sum(total * exp_of(most - largest[:, None]), axis=1)
    at = row_parts + tl.program_id(1).to(tl.int64) * row_end + rows
    tl.store(at, largest, mask=rows < row_end)
    tl.store(at + tl.num_programs(1).to(tl.int64) * row_end, sums, mask=rows < row_end)
    target = target_of(targets, rows, row_end, column_end, target_offset, HAS_TARGETS)
    found = (target >= first_column) & (target < column_end)
    mine = tl.where(found, (target - first_column) // per_program, 0) == tl.program_id(1)
    mine = mine & (rows < row_end)
    dot = tl.load(dots + panel_rows + (target - first_column), mask=mine & found, other=0)
    tl.store(positive + rows, dot * factor, mask=mine)


@triton.jit
def _join_kernel(
    row_parts, column_parts, row_lse, column_lse, state,
    first_row, row_end, first_column, column_end, number_of_rows, number_of_columns, row_blocks,
    MORE_ROWS: tl.constexpr, MORE_COLUMNS: tl.constexpr, LAST: tl.constexpr,
    BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Joins parts: those of rows by the first programs, of columns by the others."""
    if tl.program_id(0) < row_blocks:
        at = first_row + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        most, total = _join(
            row_parts, state, at, row_end, column_end, number_of_rows, MORE_ROWS, BLOCK, PARTS
        )
        tl.store(row_lse + at, most + tl.log(total), mask=at < row_end)
    else:
        at = first_column + (tl.program_id(0) - row_blocks) * BLOCK + tl.arange(0, BLOCK)
        most, total = _join(
            column_parts, state, at, column_end, column_end, number_of_columns, MORE_COLUMNS,
            BLOCK, PARTS,
        )  # fmt: skip
        if LAST:
            tl.store(column_lse + at, most + tl.log(total), mask=at < column_end)
        else:
            tl.store(state + at, most, mask=at < column_end)
            tl.store(state + column_end + at, total, mask=at < column_end)


@triton.jit
def _join(
    parts, state, at, end, column_end, number,
    MORE: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Maxima and sums at these places, of parts [2, number, end] and (MORE) state [2, C]."""
    dtype = parts.dtype.element_ty
    if MORE:
        most = tl.load(state + at, mask=at < end, other=0)
        total = tl.load(state + column_end + at, mask=at < end, other=0)
    else:
        most = tl.full((BLOCK,), -2e38, dtype)
        total = tl.zeros((BLOCK,), dtype)
    for start in range(0, number, PARTS):
        part = start + tl.arange(0, PARTS)
        exists = (part < number)[:, None] & (at < end)[None, :]
        where = part.to(tl.int64)[:, None] * end + at[None, :]
        maxima = tl.load(parts + where, mask=exists, other=-2e38)
        sums = tl.load(parts + tl.cast(number, tl.int64) * end + where, mask=exists, other=0)
        larger = tl.maximum(most, tl.max(maxima, axis=0))
        sums = tl.sum(sums * exp_of(maxima - larger[None, :]), axis=0)
        total = total * exp_of(most - larger) + sums
        most = larger
    return most, total


class PanelSums:
    """Log-sum-exp of rows, and of columns where wanted, gathered panel by panel.

    Attributes:
        row_lse: [R], complete where panels have been.
        column_lse: [C] (or [0]), written by the last panel. Of a symmetric matrix [0]: its columns'
            sums go to the rows that they are.
        positive: [R], logits of positives: 0 where a panel has no target.
    """

    def __init__(self, pairs: Pairs, over_columns: bool) -> None:
        self.pairs = pairs
        self.columns_too = over_columns or pairs.symmetric
        self.row_lse = pairs.new_empty(len(pairs.rows))
        self.column_lse = pairs.new_empty(len(pairs.columns) if over_columns else 0)
        self.positive = pairs.new_empty(len(pairs.rows))
        self.state = self.row_lse  # maxima and sums of columns so far, [2, C], once there are

    def add(self, dots: Tensor, begin: int, end: int) -> None:
        """Takes in the panel of these rows: inner products [end - begin, C], contiguous; of a
        symmetric matrix from column `begin` on. Panels come in order.
        """
        pairs, columns_too = self.pairs, self.columns_too
        (height, width), columns = dots.shape, len(self.pairs.columns)
        block = BLOCK_COLUMNS // 2 if dots.dtype == torch.float64 else BLOCK_COLUMNS
        tiles = -(-height // BLOCK_ROWS)
        splits = min(-(-PROGRAMS // tiles), -(-width // block))
        per_program = -(-width // (splits * block)) * block
        splits = -(-width // per_program)
        row_parts = pairs.new_empty(2, splits, end)
        column_parts = pairs.new_empty(2, tiles, columns) if columns_too else row_parts
        _panel_sums_kernel[(tiles, splits)](
            dots, pairs.scale, pairs.stored_targets, row_parts, column_parts, self.positive,
            begin, end, columns - width, columns, per_program,
            pairs.self_offset, pairs.target_offset, HAS_TARGETS=pairs.positives_stored,
            HAS_SELF=pairs.self_offset >= 0, COLUMNS=columns_too,
            BLOCK_R=BLOCK_ROWS, BLOCK_C=block, GROUP=GROUP, num_warps=WARPS,
        )  # fmt: skip
        last = end == len(pairs.rows)
        if columns_too and not last and begin == 0:
            self.state = pairs.new_empty(2, columns)
        after = end if pairs.symmetric else 0  # the block on the diagonal has both halves
        row_blocks = -(-height // JOIN_BLOCK)
        column_blocks = -(-(columns - after) // JOIN_BLOCK) if columns_too else 0
        _join_kernel[(row_blocks + column_blocks,)](
            row_parts, column_parts, self.row_lse, self.column_lse, self.state,
            begin, end, after, columns, splits, tiles, row_blocks,
            MORE_ROWS=pairs.symmetric and begin > 0, MORE_COLUMNS=columns_too and begin > 0,
            LAST=columns_too and last, BLOCK=JOIN_BLOCK, PARTS=JOIN_PARTS, num_warps=4,
        )  # fmt: skip
