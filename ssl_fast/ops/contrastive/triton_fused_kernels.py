"""Kernels of the fused way: a tile of rows against columns that go by.

A tile's rows stay on the chip, columns come in through copies that run ahead, and what is kept of
the similarities is kept for each row alone: sums along columns would have to go through all warps,
which costs more than to form a symmetric matrix, or a matrix and its transpose, as a whole.

Most tiles have nothing to leave out and no positive: the others go through a branch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_rows import target_of

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _exp(x):
    """e^x in the hardware's base, and 0 where it is less than the smallest normal number."""
    return tl.exp2(x * LOG2_E)


@triton.jit
def _features(
    features, start, end, size, WHOLE: tl.constexpr, OPERAND: tl.constexpr,
    BLOCK: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Rows of features from `start` on [BLOCK, SIZE], 0 where there are none."""
    places, along = tl.arange(0, BLOCK), tl.arange(0, SIZE)
    exists = (places < end - start)[:, None]
    if WHOLE:
        at = features + start.to(tl.int64) * SIZE + places[:, None] * SIZE + along[None, :]
    else:
        at = features + start.to(tl.int64) * size + places[:, None] * size + along[None, :]
        exists = exists & (along < size)[None, :]
    return tl.load(at, mask=exists, other=0).to(OPERAND)


@triton.jit
def _is_cut(
    start_row, start_column, column_end, self_difference,
    HAS_SELF: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Whether a tile has columns that are none, or logits to leave out."""
    cut = start_column + BLOCK_C > column_end
    if HAS_SELF:
        difference = start_row - start_column - self_difference
        cut = cut | ((difference < BLOCK_C) & (difference > -BLOCK_R))
    return cut


@triton.jit
def _is_inside(rows, columns, column_end, self_difference, HAS_SELF: tl.constexpr):
    """Which logits of a tile are not left out."""
    inside = (columns < column_end)[None, :] & (rows >= 0)[:, None]
    if HAS_SELF:
        inside = inside & (rows[:, None] - columns[None, :] != self_difference)
    return inside


@triton.jit
def _range_of(target, column_end):
    """First and last column that is a target; those below 0 are none."""
    return tl.min(tl.where(target >= 0, target, column_end), axis=0), tl.max(target, axis=0)


@triton.jit
def _log_of(total, most):
    """most + log(total); -inf of no terms."""
    return tl.where(total > 0, most + tl.log(tl.where(total > 0, total, 1.0)), total - float("inf"))


@triton.jit
def _fused_sums_kernel(
    row_features, column_features, scale, targets, parts, positive,
    row_end, column_end, columns_per_split, self_difference, target_offset, size,
    HAS_SELF: tl.constexpr, POSITIVES: tl.constexpr, HAS_TARGETS: tl.constexpr,
    WHOLE: tl.constexpr, OPERAND: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of a tile of rows over a part of the columns [parts, R], and positives' logits:
    the same numbers that are in the sums, so that of a small loss no more is lost.
    """
    start_row, split = tl.program_id(0) * BLOCK_R, tl.program_id(1)
    rows = start_row + tl.arange(0, BLOCK_R)
    factor = tl.load(scale)
    if POSITIVES:
        target = target_of(targets, rows, row_end, column_end, target_offset, HAS_TARGETS)
        nearest, farthest = _range_of(target, column_end)
        found = tl.zeros((BLOCK_R,), tl.float32)
    a = _features(row_features, start_row, row_end, size, WHOLE, OPERAND, BLOCK_R, SIZE)
    most = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_R,), tl.float32)
    first = split * columns_per_split
    for step in range(0, tl.minimum(columns_per_split, column_end - first), BLOCK_C):
        start = first + step
        b = _features(column_features, start, column_end, size, WHOLE, OPERAND, BLOCK_C, SIZE)
        logits = tl.dot(a, tl.trans(b), input_precision="ieee") * factor
        special = _is_cut(start_row, start, column_end, self_difference, HAS_SELF, BLOCK_R, BLOCK_C)
        if POSITIVES:
            special = special | ((start <= farthest) & (start + BLOCK_C > nearest))
        if special:
            columns = start + tl.arange(0, BLOCK_C)
            inside = _is_inside(rows, columns, column_end, self_difference, HAS_SELF)
            logits = tl.where(inside, logits, float("-inf"))
            if POSITIVES:
                matched = target[:, None] == columns[None, :]
                found += tl.sum(tl.where(matched, logits, 0.0), axis=1)
        larger = tl.maximum(most, tl.max(logits, axis=1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        total *= _exp(most - shift)
        total += tl.sum(_exp(logits - shift[:, None]), axis=1)
        most = larger
    at = parts + split.to(tl.int64) * row_end + rows
    tl.store(at, _log_of(total, most), mask=rows < row_end)
    if POSITIVES:
        here = (target >= first) & (target < first + columns_per_split)
        tl.store(positive + rows, found, mask=here & (rows < row_end))


@triton.jit
def _join_sums_kernel(
    parts, out, count, splits, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr
):  # fmt: skip
    """Log-sum-exp over the parts [splits, count] of each row's sum."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    most = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_R,), tl.float32)
    for start in range(0, splits, BLOCK_S):
        part = start + tl.arange(0, BLOCK_S)
        exists = (part < splits)[:, None] & (rows < count)[None, :]
        at = parts + part.to(tl.int64)[:, None] * count + rows[None, :]
        logits = tl.load(at, mask=exists, other=float("-inf"))
        larger = tl.maximum(most, tl.max(logits, axis=0))
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        total *= _exp(most - shift)
        total += tl.sum(_exp(logits - shift[None, :]), axis=0)
        most = larger
    tl.store(out + rows, _log_of(total, most), mask=rows < count)


@triton.jit
def _matches(
    targets, target, rows, columns, row_end, column_end, OF_COLUMNS: tl.constexpr
):  # fmt: skip
    """Where a tile has positives: at the rows' targets, or (if OF_COLUMNS) at the columns'."""
    if OF_COLUMNS:
        target = target_of(targets, columns, column_end, row_end, 0, True)
        matched = target[None, :] == rows[:, None]
    else:
        matched = target[:, None] == columns[None, :]
    return matched


@triton.jit
def _fused_gradient_kernel(
    row_features, column_features, out, scale, targets, row_lse, column_lse,
    row_end, column_end, columns_per_split, self_difference, target_offset, target_end, size,
    out_size, HAS_SELF: tl.constexpr, USE_ROWS: tl.constexpr, USE_COLUMNS: tl.constexpr,
    HAS_TARGETS: tl.constexpr, OF_COLUMNS: tl.constexpr, WHOLE: tl.constexpr, OPERAND: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Weights times columns, of a tile of rows and a part of the columns: [parts, R, out_size].

    Args:
        targets, target_offset, target_end: as `target_of` takes them for the rows; OF_COLUMNS:
            `targets` are stored ones of the columns.
    """
    start_row, split = tl.program_id(0) * BLOCK_R, tl.program_id(1)
    rows = start_row + tl.arange(0, BLOCK_R)
    factor = tl.load(scale)
    target = rows
    if not OF_COLUMNS:
        target = target_of(targets, rows, row_end, target_end, target_offset, HAS_TARGETS)
    nearest, farthest = _range_of(target, column_end)
    if USE_ROWS:
        row_shift = tl.load(row_lse + rows, mask=rows < row_end, other=0)
    a = _features(row_features, start_row, row_end, size, WHOLE, OPERAND, BLOCK_R, SIZE)
    total = tl.zeros((BLOCK_R, SIZE), tl.float32)
    first = split * columns_per_split
    for step in range(0, tl.minimum(columns_per_split, column_end - first), BLOCK_C):
        start = first + step
        columns = start + tl.arange(0, BLOCK_C)
        if USE_COLUMNS:  # before the product, which hides how long it takes
            shift = tl.load(column_lse + columns, mask=columns < column_end, other=0)
        b = _features(column_features, start, column_end, size, WHOLE, OPERAND, BLOCK_C, SIZE)
        dots = tl.dot(a, tl.trans(b), input_precision="ieee")
        if USE_ROWS:
            weights = _exp(dots * factor - row_shift[:, None])
            if USE_COLUMNS:
                weights += _exp(dots * factor - shift[None, :])
        else:
            weights = _exp(dots * factor - shift[None, :])
        cut = _is_cut(start_row, start, column_end, self_difference, HAS_SELF, BLOCK_R, BLOCK_C)
        if OF_COLUMNS or (cut | ((start <= farthest) & (start + BLOCK_C > nearest))):
            inside = _is_inside(rows, columns, column_end, self_difference, HAS_SELF)
            matched = _matches(targets, target, rows, columns, row_end, column_end, OF_COLUMNS)
            of_each = (1.0 if USE_ROWS else 0.0) + (1.0 if USE_COLUMNS else 0.0)
            weights = tl.where(inside, weights, 0.0) - tl.where(matched, of_each, 0.0)
        total = tl.dot(weights.to(OPERAND), b, total, input_precision="ieee")
    along = tl.arange(0, SIZE)
    row = split.to(tl.int64) * row_end + rows.to(tl.int64)
    exists = (rows < row_end)[:, None] & (along < out_size)[None, :]
    tl.store(out + row[:, None] * out_size + along[None, :], total, mask=exists)
