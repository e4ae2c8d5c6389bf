"""What stands around the products of the Barlow Twins loss, in Triton: the kernels.

A program takes a block of columns and all rows, so that sums along columns have one order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tile(pointer, n, k, rows, columns, stride_n, stride_k, COMPUTE: tl.constexpr):
    """Elements [rows n, columns k]; zeros where there are none."""
    inside = (n < rows)[:, None] & (k < columns)[None, :]
    places = n.to(tl.int64)[:, None] * stride_n + k.to(tl.int64)[None, :] * stride_k
    return tl.load(pointer + places, mask=inside, other=0).to(COMPUTE)


@triton.jit
def _h(
    z, statistics, view, n, k, rows, columns, stride_n, stride_k, COMPUTE: tl.constexpr
):  # fmt: skip
    """h of a tile from its columns' statistics; zeros where there is none."""
    at = statistics + 3 * view * columns + k
    mean = tl.load(at, mask=k < columns, other=0)
    rest = tl.load(at + columns, mask=k < columns, other=0)
    inverse = tl.load(at + 2 * columns, mask=k < columns, other=0)
    x = _tile(z, n, k, rows, columns, stride_n, stride_k, COMPUTE)
    x = (x - mean[None, :] - rest[None, :]) * inverse[None, :]
    return tl.where((n < rows)[:, None], x, 0)


@triton.jit
def _statistics(
    z, at, k, rows, columns, stride_n, stride_k,
    EPS: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Writes what makes h of these columns: `reference.standardise` says what and why."""
    total = tl.zeros((COLUMNS,), COMPUTE)
    for start in range(0, rows, ROWS):
        n = start + tl.arange(0, ROWS)
        total += tl.sum(_tile(z, n, k, rows, columns, stride_n, stride_k, COMPUTE), axis=0)
    mean = total / rows
    rest = tl.zeros((COLUMNS,), COMPUTE)
    for start in range(0, rows, ROWS):
        n = start + tl.arange(0, ROWS)
        x = _tile(z, n, k, rows, columns, stride_n, stride_k, COMPUTE) - mean[None, :]
        rest += tl.sum(tl.where((n < rows)[:, None], x, 0), axis=0)
    rest = rest / rows
    squares = tl.zeros((COLUMNS,), COMPUTE)
    for start in range(0, rows, ROWS):
        n = start + tl.arange(0, ROWS)
        x = _tile(z, n, k, rows, columns, stride_n, stride_k, COMPUTE)
        x = tl.where((n < rows)[:, None], x - mean[None, :] - rest[None, :], 0)
        squares += tl.sum(x * x, axis=0)
    inverse = 1 / tl.sqrt(squares / rows + EPS)
    tl.store(at + k, mean, mask=k < columns)
    tl.store(at + columns + k, rest, mask=k < columns)
    tl.store(at + 2 * columns + k, inverse, mask=k < columns)
    return mean, rest, inverse


@triton.jit
def standardise_kernel(
    z0, z1, statistics, h0, h1, diagonal, multiplied, rows, columns, z0_n, z0_k, z1_n, z1_k,
    EPS: tl.constexpr, ROUNDED: tl.constexpr, TWICE: tl.constexpr,
    COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Statistics, h (with TWICE two of them, below each other), and the diagonal of C; with ROUNDED
    that of the h that are stored as well. (EPS as an argument would be float32.)
    """
    k = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    mean0, rest0, inverse0 = _statistics(
        z0, statistics, k, rows, columns, z0_n, z0_k, EPS, COMPUTE, ROWS, COLUMNS
    )
    mean1, rest1, inverse1 = _statistics(
        z1, statistics + 3 * columns, k, rows, columns, z1_n, z1_k, EPS, COMPUTE, ROWS, COLUMNS
    )
    total = tl.zeros((COLUMNS,), COMPUTE)
    other = tl.zeros((COLUMNS,), COMPUTE)
    for start in range(0, rows, ROWS):
        n = start + tl.arange(0, ROWS)
        inside = (n < rows)[:, None] & (k < columns)[None, :]
        first = _tile(z0, n, k, rows, columns, z0_n, z0_k, COMPUTE)
        first = (first - mean0[None, :] - rest0[None, :]) * inverse0[None, :]
        second = _tile(z1, n, k, rows, columns, z1_n, z1_k, COMPUTE)
        second = (second - mean1[None, :] - rest1[None, :]) * inverse1[None, :]
        total += tl.sum(tl.where(inside, first * second, 0), axis=0)
        stored0 = first.to(h0.dtype.element_ty)
        stored1 = second.to(h1.dtype.element_ty)
        if ROUNDED:
            product = stored0.to(COMPUTE) * stored1.to(COMPUTE)
            other += tl.sum(tl.where(inside, product, 0), axis=0)
        places = n.to(tl.int64)[:, None] * columns + k[None, :]
        tl.store(h0 + places, stored0, mask=inside)
        tl.store(h1 + places, stored1, mask=inside)
        if TWICE:
            places = (n + rows).to(tl.int64)[:, None] * columns + k[None, :]
            tl.store(h0 + places, stored0, mask=inside)
            tl.store(h1 + places, stored1, mask=inside)
    tl.store(diagonal + k, total / rows, mask=k < columns)
    if ROUNDED:
        tl.store(multiplied + k, other / rows, mask=k < columns)


@triton.jit
def settle_kernel(
    z0, z1, statistics, diagonal, multiplied, slope0, slope1, squares, weight, losses, all_rows,
    rows, columns, z0_n, z0_k, z1_n, z1_k,
    SQUARED: tl.constexpr, WITH_DIAGONAL: tl.constexpr, FINISH: tl.constexpr,
    COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Products, in place, to slopes: over N or N^2, less the diagonal's part where they have it.

    With FINISH they become the gradients, and `losses` each program's part of the loss.
    """
    k = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    within = k < columns
    count = tl.zeros((COLUMNS,), COMPUTE) + all_rows
    scale = 1 / (count * count) if SQUARED else 1 / count
    has = tl.zeros((COLUMNS,), COMPUTE)
    if WITH_DIAGONAL:
        has = tl.load(multiplied + k, mask=within, other=0) / count
    total0 = tl.zeros((COLUMNS,), COMPUTE)
    total1 = tl.zeros((COLUMNS,), COMPUTE)
    for start in range(0, rows, ROWS):
        n = start + tl.arange(0, ROWS)
        first = _h(z0, statistics, 0, n, k, rows, columns, z0_n, z0_k, COMPUTE)
        second = _h(z1, statistics, 1, n, k, rows, columns, z1_n, z1_k, COMPUTE)
        by0 = _tile(slope0, n, k, rows, columns, columns, 1, COMPUTE) * scale[None, :]
        by1 = _tile(slope1, n, k, rows, columns, columns, 1, COMPUTE) * scale[None, :]
        by0 = by0 - has[None, :] * second
        by1 = by1 - has[None, :] * first
        total0 += tl.sum(by0 * first, axis=0)
        total1 += tl.sum(by1 * second, axis=0)
        if not FINISH:
            inside = (n < rows)[:, None] & within[None, :]
            places = n.to(tl.int64)[:, None] * columns + k[None, :]
            tl.store(slope0 + places, by0, mask=inside)
            tl.store(slope1 + places, by1, mask=inside)
    if not FINISH:
        tl.store(squares + k, total0, mask=within)
        tl.store(squares + columns + k, total1, mask=within)
    else:
        c = tl.load(diagonal + k, mask=within, other=1)
        factor = tl.load(weight)
        loss = (c - 1) * (c - 1) + tl.where(within, factor * total0, 0)
        tl.store(losses + tl.program_id(0), tl.sum(loss, axis=0))
        own = 2 * (c - 1) / count
        # The mean over the batch of gradient * h; that of the gradient is 0, for h has mean 0.
        shrink0 = own * c + 2 * factor * total0 / count
        shrink1 = own * c + 2 * factor * total1 / count
        inverse0 = tl.load(statistics + 2 * columns + k, mask=within, other=0)
        inverse1 = tl.load(statistics + 5 * columns + k, mask=within, other=0)
        for start in range(0, rows, ROWS):
            n = start + tl.arange(0, ROWS)
            first = _h(z0, statistics, 0, n, k, rows, columns, z0_n, z0_k, COMPUTE)
            second = _h(z1, statistics, 1, n, k, rows, columns, z1_n, z1_k, COMPUTE)
            by0 = _tile(slope0, n, k, rows, columns, columns, 1, COMPUTE) * scale[None, :]
            by1 = _tile(slope1, n, k, rows, columns, columns, 1, COMPUTE) * scale[None, :]
            by0 = 2 * factor * (by0 - has[None, :] * second) + own[None, :] * second
            by1 = 2 * factor * (by1 - has[None, :] * first) + own[None, :] * first
            by0 = (by0 - shrink0[None, :] * first) * inverse0[None, :]
            by1 = (by1 - shrink1[None, :] * second) * inverse1[None, :]
            inside = (n < rows)[:, None] & within[None, :]
            places = n.to(tl.int64)[:, None] * columns + k[None, :]
            tl.store(slope0 + places, by0, mask=inside)
            tl.store(slope1 + places, by1, mask=inside)


@triton.jit
def finish_kernel(
    z0, z1, statistics, diagonal, slope0, slope1, squares, weight, grad0, grad1, total, rows,
    columns, z0_n, z0_k, z1_n, z1_k,
    COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    within = k < columns
    twice = 2 * tl.load(weight)
    c = tl.load(diagonal + k, mask=within, other=0)
    own = 2 * (c - 1) / total
    # The mean over the batch of gradient * h; that of the gradient is 0, for h has mean 0.
    shrink0 = own * c + twice * tl.load(squares + k, mask=within, other=0) / total
    shrink1 = own * c + twice * tl.load(squares + columns + k, mask=within, other=0) / total
    first = _h(z0, statistics, 0, n, k, rows, columns, z0_n, z0_k, COMPUTE)
    second = _h(z1, statistics, 1, n, k, rows, columns, z1_n, z1_k, COMPUTE)
    by0 = twice * _tile(slope0, n, k, rows, columns, columns, 1, COMPUTE) + own[None, :] * second
    by1 = twice * _tile(slope1, n, k, rows, columns, columns, 1, COMPUTE) + own[None, :] * first
    by0 = by0 - shrink0[None, :] * first
    by1 = by1 - shrink1[None, :] * second
    inverse0 = tl.load(statistics + 2 * columns + k, mask=within, other=0)
    inverse1 = tl.load(statistics + 5 * columns + k, mask=within, other=0)
    inside = (n < rows)[:, None] & within[None, :]
    places = n.to(tl.int64)[:, None] * columns + k[None, :]
    tl.store(grad0 + places, by0 * inverse0[None, :], mask=inside)
    tl.store(grad1 + places, by1 * inverse1[None, :], mask=inside)


@triton.jit
def _split(matrix, out, at, there, columns):
    """float32 [n, N] to halves [n, 2 N]: rounded, and what that leaves."""
    x = tl.load(matrix + at, mask=there, other=0)
    high = x.to(out.dtype.element_ty)
    places = at // columns * (2 * columns) + at % columns
    tl.store(out + places, high, mask=there)
    tl.store(out + places + columns, (x - high.to(tl.float32)).to(high.dtype), mask=there)


@triton.jit
def split_kernel(matrix0, matrix1, out0, out1, elements, columns, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < elements
    if tl.program_id(1) == 0:
        _split(matrix0, out0, at, there, columns)
    else:
        _split(matrix1, out1, at, there, columns)


@triton.jit
def round_kernel(panel, out, elements, columns, first_column, rows, BLOCK: tl.constexpr):
    """A panel of N * C, its first column that of C, over N and rounded, its diagonal 0."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < elements
    x = tl.load(panel + at, mask=there, other=0) / rows
    x = tl.where(at // columns == at % columns + first_column, 0, x)
    tl.store(out + at, x.to(out.dtype.element_ty), mask=there)
