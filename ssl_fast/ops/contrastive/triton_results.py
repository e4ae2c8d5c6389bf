"""The last steps of a loss: gradients by their common factor, sums of what there is one of."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # numbers of a gradient for each program
TERMS = 4096  # that the last program takes at a time
ROWS, SIZE = 4, 128  # of a queue's queries


@triton.jit
def _scale_kernel(
    grad_rows, row_features, grad_columns, scale, parts,
    count, rows_size, columns_size, row_programs, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients times scale / count, in place; before it parts of the sum of <grad, feature>."""
    program = tl.program_id(0).to(tl.int64)
    dtype = grad_rows.dtype.element_ty
    factor = tl.load(scale) / tl.cast(count, dtype)
    if program < row_programs:
        at = program * BLOCK + tl.arange(0, BLOCK)
        grad = tl.load(grad_rows + at, mask=at < rows_size, other=0)
        feature = tl.load(row_features + at, mask=at < rows_size, other=0).to(dtype)
        tl.store(parts + program, tl.sum(grad * feature, axis=0))
        tl.store(grad_rows + at, grad * factor, mask=at < rows_size)
    else:
        at = (program - row_programs) * BLOCK + tl.arange(0, BLOCK)
        grad = tl.load(grad_columns + at, mask=at < columns_size, other=0)
        tl.store(grad_columns + at, grad * factor, mask=at < columns_size)


@triton.jit
def _queue_kernel(
    grad_query, grad_positive, query, positive, matched, lse, scale, parts,
    count, rows, size, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """As above of a queue's queries, to whose gradients those by their positives come here."""
    dtype = grad_query.dtype.element_ty
    factor = tl.load(scale) / tl.cast(count, dtype)
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    there = row < rows
    logit = tl.load(matched + row, mask=there, other=0)
    own = tl.exp(logit - tl.load(lse + row, mask=there, other=0)) - 1.0
    total = tl.zeros((BLOCK_R, BLOCK_D), dtype)
    for start in range(0, size, BLOCK_D):
        along = start + tl.arange(0, BLOCK_D)
        at = row.to(tl.int64)[:, None] * size + along[None, :]
        exists = there[:, None] & (along < size)[None, :]
        q = tl.load(query + at, mask=exists, other=0).to(dtype)
        p = tl.load(positive + at, mask=exists, other=0).to(dtype)
        grad = tl.load(grad_query + at, mask=exists, other=0) + own[:, None] * p
        total += grad * q
        tl.store(grad_query + at, grad * factor, mask=exists)
        tl.store(grad_positive + at, own[:, None] * q * factor, mask=exists)
    tl.store(parts + tl.program_id(0), tl.sum(tl.sum(total, axis=1), axis=0))


@triton.jit
def _sums_kernel(
    first, second, positive, parts, slopes, loss, grad_scale, grad_bias,
    terms, number_of_parts, number_of_slopes, positives, times, loss_count, scale_count,
    SECOND: tl.constexpr, POSITIVE: tl.constexpr, PARTS: tl.constexpr, SLOPES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Loss and gradients of scalars, by one program: sums in a fixed order."""
    dtype = loss.dtype.element_ty
    total = tl.zeros((BLOCK,), dtype)
    for start in range(0, terms, BLOCK):
        at = start + tl.arange(0, BLOCK)
        term = tl.load(first + at, mask=at < terms, other=0)
        if SECOND:
            term += tl.load(second + at, mask=at < terms, other=0)
        if POSITIVE:
            source = tl.where(at < positives, at, at - positives)
            term -= times * tl.load(positive + source, mask=at < terms, other=0)
        total += term
    tl.store(loss, tl.sum(total, axis=0) / tl.cast(loss_count, dtype))
    if PARTS:
        tl.store(grad_scale, _sum(parts, number_of_parts, BLOCK) / tl.cast(scale_count, dtype))
    if SLOPES:
        tl.store(grad_bias, _sum(slopes, number_of_slopes, BLOCK) / tl.cast(loss_count, dtype))


@triton.jit
def _sum(values, number, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), values.dtype.element_ty)
    for start in range(0, number, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(values + at, mask=at < number, other=0)
    return tl.sum(total, axis=0)


def scale_gradients(
    grad_rows: Tensor, grad_columns: Tensor, rows: Tensor, scale: Tensor, count: int
) -> Tensor:
    """Multiplies gradients by scale / count, in place.

    Returns:
        Parts of the sum of <grad_rows, rows>, from before.
    """
    programs = -(-grad_rows.numel() // BLOCK)
    others = -(-grad_columns.numel() // BLOCK)
    parts = grad_rows.new_empty(programs)
    _scale_kernel[(programs + others,)](
        grad_rows, rows, grad_columns, scale, parts,
        count, grad_rows.numel(), grad_columns.numel(), programs, BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip
    return parts


def queue_gradients(
    grad_query: Tensor,
    query: Tensor,
    positive: Tensor,
    matched: Tensor,
    lse: Tensor,
    scale: Tensor,
    count: int,
) -> tuple[Tensor, Tensor]:
    """Completes the gradient of queries [N, D] in place, their positives' among it, and scales it.

    Args:
        matched, lse: [N], the logits of queries with their positives, and of all.

    Returns:
        The gradient of positives [N, D], and parts of the sum of <grad_query, query>.
    """
    rows, size = grad_query.shape
    grad_positive = grad_query.new_empty(rows, size)
    parts = grad_query.new_empty(-(-rows // ROWS))
    _queue_kernel[(len(parts),)](
        grad_query, grad_positive, query, positive, matched, lse, scale, parts,
        count, rows, size, BLOCK_R=ROWS, BLOCK_D=SIZE, num_warps=4,
    )  # fmt: skip
    return grad_positive, parts


def totals(
    terms: Tensor,
    second: Tensor | None = None,
    positive: Tensor | None = None,
    parts: Tensor | None = None,
    slopes: Tensor | None = None,
    *,
    loss_count: int,
    scale_count: int = 1,
    positives: int = 0,
    times: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the loss's terms, of parts of the scale's gradient and of the bias's, divided.

    Args:
        terms: [n]; to them `second` [n] is added and `times` the positives' logits subtracted.
        positive: row i's at i, or from `positives` on at i - positives.

    Returns:
        Loss, gradients of scale and bias, []; the latter undefined where not asked for.
    """
    loss, grad_scale, grad_bias = (terms.new_empty(()) for _ in range(3))
    _sums_kernel[(1,)](
        terms, terms if second is None else second, terms if positive is None else positive,
        terms if parts is None else parts, terms if slopes is None else slopes,
        loss, grad_scale, grad_bias,
        terms.numel(), 0 if parts is None else parts.numel(),
        0 if slopes is None else slopes.numel(), positives or max(terms.numel(), 1), times,
        loss_count, scale_count,
        SECOND=second is not None, POSITIVE=positive is not None, PARTS=parts is not None,
        SLOPES=slopes is not None, BLOCK=TERMS, num_warps=16,
    )  # fmt: skip
    return loss, grad_scale, grad_bias
