"""What is done with a tile of similarities, whichever way the tile came about.

Rows and columns are places in the whole matrix.
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
