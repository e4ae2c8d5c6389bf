"""What is done with a tile of similarities, whichever way the tile came about.

Rows and columns are places in the whole matrix. `targets` has a row's positive column or, with
TARGETS_OF_ROWS False, a column's positive row: the same matrix seen from its other side.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def logits_of(
    dots, scale, rows, columns, row_end, column_end, self_difference, HAS_SELF: tl.constexpr
):  # fmt: skip
    """scale * dots; -inf outside the matrix and where row - column is `self_difference`."""
    exists = (rows < row_end)[:, None] & (columns < column_end)[None, :]
    if HAS_SELF:
        exists = exists & (rows[:, None] - columns[None, :] != self_difference)
    return tl.where(exists, dots * scale, float("-inf"))


@triton.jit
def logsumexp_of(logits, AXIS: tl.constexpr):
    """Over an axis of a tile, by the largest; -inf where all are."""
    most = tl.max(logits, axis=AXIS)
    shift = tl.where(most == float("-inf"), 0.0, most)
    total = tl.sum(tl.exp(logits - tl.expand_dims(shift, AXIS)), axis=AXIS)
    return tl.where(
        total > 0, shift + tl.log(tl.where(total > 0, total, 1.0)), total - float("inf")
    )


@triton.jit
def matches(targets, rows, columns, row_end, column_end, TARGETS_OF_ROWS: tl.constexpr):
    """Where a tile has positives."""
    if TARGETS_OF_ROWS:
        target = tl.load(targets + rows, mask=rows < row_end, other=-1)
        return target[:, None] == columns[None, :]
    target = tl.load(targets + columns, mask=columns < column_end, other=-1)
    return target[None, :] == rows[:, None]


@triton.jit
def softmax_weights(
    logits, matched, row_lse, column_lse, rows, columns, row_end, column_end,
    USE_ROWS: tl.constexpr, USE_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Softmaxes of rows and of columns, as far as these are used, less 1 each at positives."""
    weights = tl.zeros_like(logits)
    if USE_ROWS:
        lse = tl.load(row_lse + rows, mask=rows < row_end, other=0)
        weights += tl.exp(logits - lse[:, None])
        weights -= tl.where(matched, 1.0, 0.0)
    if USE_COLUMNS:
        lse = tl.load(column_lse + columns, mask=columns < column_end, other=0)
        weights += tl.exp(logits - lse[None, :])
        weights -= tl.where(matched, 1.0, 0.0)
    return weights


@triton.jit
def sigmoid_losses(logits, matched, bias):
    """-log sigmoid of +-(logits + bias), and its derivative; 0 where a logit is -inf."""
    exists = logits != float("-inf")
    sign = tl.where(matched, 1.0, -1.0)
    margin = tl.where(exists, sign * (logits + bias), 0.0)
    small = tl.exp(-tl.abs(margin))
    # log(1 + small) to the last place: what the sum loses to rounding cancels in the quotient.
    one = 1.0 + small
    exact = one == 1.0
    logarithm = tl.where(exact, small, tl.log(one) * (small / tl.where(exact, 1.0, one - 1.0)))
    losses = tl.maximum(-margin, 0.0) + logarithm
    slopes = -sign * tl.where(margin >= 0, small, 1.0) / one
    return tl.where(exists, losses, 0.0), tl.where(exists, slopes, 0.0)


@triton.jit
def store_sums(
    logits, matched, row_parts, column_parts, positive, rows, columns, row_end, column_end,
    row_part, column_part, columns_from, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A tile's log-sum-exp along both axes, and its positives.

    Args:
        row_parts, column_parts: for each tile along a row or column, the whole row or column.
        row_part, column_part: which of them is this tile's.
        columns_from: the first column whose sum counts, the others get -inf.
    """
    rows = rows.to(tl.int64)
    columns = columns.to(tl.int64)
    inside = rows < row_end
    tl.store(
        row_parts + row_part.to(tl.int64) * row_end + rows, logsumexp_of(logits, 1), mask=inside
    )
    if COLUMNS:
        sums = tl.where(columns >= columns_from, logsumexp_of(logits, 0), float("-inf"))
        at = column_parts + column_part.to(tl.int64) * column_end + columns
        tl.store(at, sums, mask=columns < column_end)
    found = tl.max(matched.to(tl.int32), axis=1) > 0
    value = tl.sum(tl.where(matched, logits, 0.0), axis=1)
    tl.store(positive + rows, value, mask=inside & found)
