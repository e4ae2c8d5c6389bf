"""What stands around the products of the Barlow Twins loss, in Triton; the products are torch's.

A program takes a block of columns and all rows, so that sums along columns have one order. As in
`csrc/cross_correlation/cross_correlation_torch.cpp`, the slopes of the off-diagonal sum come from
D x D matrices, a panel at a time, or from N x N ones where there are few rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference

PANEL_BYTES = 128 << 20  # of parts of C, or of the matrices of rows, at a time


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
def _statistics_kernel(
    z, statistics, view, eps, rows, columns, stride_n, stride_k,
    COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
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
    at = statistics + 3 * view * columns + k
    tl.store(at, mean, mask=k < columns)
    tl.store(at + columns, rest, mask=k < columns)
    tl.store(at + 2 * columns, 1 / tl.sqrt(squares / rows + eps), mask=k < columns)


@triton.jit
def _standardise_kernel(
    z0, z1, statistics, h0, h1, diagonal, rows, columns, z0_n, z0_k, z1_n, z1_k,
    COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), COMPUTE)
    for start in range(0, rows, ROWS):
        n = start + tl.arange(0, ROWS)
        first = _h(z0, statistics, 0, n, k, rows, columns, z0_n, z0_k, COMPUTE)
        second = _h(z1, statistics, 1, n, k, rows, columns, z1_n, z1_k, COMPUTE)
        total += tl.sum(first * second, axis=0)
        inside = (n < rows)[:, None] & (k < columns)[None, :]
        places = n.to(tl.int64)[:, None] * columns + k[None, :]
        tl.store(h0 + places, first, mask=inside)
        tl.store(h1 + places, second, mask=inside)
    tl.store(diagonal + k, total / rows, mask=k < columns)


@triton.jit
def _settle_kernel(
    z0, z1, statistics, diagonal, slope0, slope1, squares, scale, all_rows, rows, columns,
    z0_n, z0_k, z1_n, z1_k,
    WITH_DIAGONAL: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Products, in place, to slopes: scaled, less the diagonal's part where they have it."""
    k = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    own = tl.zeros((COLUMNS,), COMPUTE)
    if WITH_DIAGONAL:
        own = tl.load(diagonal + k, mask=k < columns, other=0) / all_rows
    total0 = tl.zeros((COLUMNS,), COMPUTE)
    total1 = tl.zeros((COLUMNS,), COMPUTE)
    for start in range(0, rows, ROWS):
        n = start + tl.arange(0, ROWS)
        first = _h(z0, statistics, 0, n, k, rows, columns, z0_n, z0_k, COMPUTE)
        second = _h(z1, statistics, 1, n, k, rows, columns, z1_n, z1_k, COMPUTE)
        by0 = _tile(slope0, n, k, rows, columns, columns, 1, COMPUTE) * scale
        by1 = _tile(slope1, n, k, rows, columns, columns, 1, COMPUTE) * scale
        by0 = by0 - own[None, :] * second
        by1 = by1 - own[None, :] * first
        total0 += tl.sum(by0 * first, axis=0)
        total1 += tl.sum(by1 * second, axis=0)
        inside = (n < rows)[:, None] & (k < columns)[None, :]
        places = n.to(tl.int64)[:, None] * columns + k[None, :]
        tl.store(slope0 + places, by0, mask=inside)
        tl.store(slope1 + places, by1, mask=inside)
    tl.store(squares + k, total0, mask=k < columns)
    tl.store(squares + columns + k, total1, mask=k < columns)


@triton.jit
def _finish_kernel(
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


def _constants(z: Tensor, columns: int) -> dict[str, object]:
    wide = z.dtype == torch.float64
    # The interpreter pays by the program.
    rows, width = (64, 16) if z.is_cuda else (64, min(1024, triton.next_power_of_2(columns)))
    return {
        "COMPUTE": tl.float64 if wide else tl.float32,
        "ROWS": rows,
        "COLUMNS": width,
        "num_warps": 4,
    }


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, in float32 whatever they are (float64 for float64)."""
    with torch.autocast(a.device.type, enabled=False):
        if a.dtype in (torch.float32, torch.float64):
            return a @ b
        if a.is_cuda:
            return torch.mm(a, b, out_dtype=torch.float32)
        return a.float() @ b.float()


def _multiply_halves(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for a of float32 that b's type is too short for: its rounding is multiplied as well."""
    if a.dtype == b.dtype:
        return _multiply(a, b)
    high = a.to(b.dtype)
    return _multiply(high, b) + _multiply((a - high).to(b.dtype), b)


def _by_rows(h: Tensor) -> bool:
    return 2 * h.shape[0] <= h.shape[1]


def _row_panels(
    h0: Tensor, h1: Tensor, begin: int, end: int
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """First and last row of panels, and their matrices with all rows, [n, N]."""
    size = 1 + PANEL_BYTES // (8 * h0.shape[0])
    for first in range(begin, end, size):
        last = min(first + size, end)
        yield first, last, _multiply(h0[first:last], h0.T), _multiply(h1[first:last], h1.T)


def _column_panels(h0: Tensor, h1: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """First and last column of panels, and their part of N * C, [D, d], its diagonal 0."""
    columns = h0.shape[1]
    size = 1 + PANEL_BYTES // (4 * columns)
    for first in range(0, columns, size):
        last = min(first + size, columns)
        panel = _multiply(h0.T, h1[:, first:last])
        panel[first:last].diagonal().zero_()
        yield first, last, panel


def _multiplied_diagonal(h0: Tensor, h1: Tensor, diagonal: Tensor) -> Tensor:
    """The diagonal of C as products of these h have it: of rounded ones, another one."""
    if not _by_rows(h0) or h0.dtype == diagonal.dtype:
        return diagonal
    return (h0.to(diagonal.dtype) * h1).mean(dim=0)


def _total(h0: Tensor, h1: Tensor, diagonal: Tensor, begin: int, end: int) -> Tensor:
    """The sum of C_ij^2, i != j, these rows' part, [1]."""
    rows = h0.shape[0]
    total = diagonal.new_zeros(1)
    if _by_rows(h0):
        for _, _, of0, of1 in _row_panels(h0, h1, begin, end):
            total += (of0 * of1).sum() / rows**2
        return total - diagonal.square().sum() * ((end - begin) / rows)
    for _, _, panel in _column_panels(h0, h1):
        total += panel.square().sum() * ((end - begin) / rows / rows**2)
    return total


def _products(h0: Tensor, h1: Tensor, slope0: Tensor, slope1: Tensor, begin: int, end: int) -> None:
    """N^2 times the slopes of half the sum of C_ij^2 (i != j by columns, all by rows)."""
    if _by_rows(h0):
        for first, last, of0, of1 in _row_panels(h0, h1, begin, end):
            slope0[first - begin : last - begin] = _multiply_halves(of1, h0)
            slope1[first - begin : last - begin] = _multiply_halves(of0, h1)
        return
    for first, last, panel in _column_panels(h0, h1):
        # Over N, as C is: float16 holds it.
        panel = (panel / h0.shape[0]).to(h0.dtype)
        slope1[:, first:last] = _multiply(h0[begin:end], panel) * h0.shape[0]
        part = _multiply(h1[begin:end, first:last], panel.T) * h0.shape[0]
        slope0.copy_(part) if first == 0 else slope0.add_(part)


def cross_correlation_rows(
    z0: Tensor, z1: Tensor, eps: float, begin: int, end: int, with_gradient: bool
) -> tuple[Tensor, ...]:
    """Launcher of `ssl_fast::cross_correlation_rows`."""
    rows, columns = z0.shape
    dtype = reference.compute_dtype(z0.dtype)
    constants = _constants(z0, columns)
    grid = (triton.cdiv(columns, constants["COLUMNS"]),)
    statistics = z0.new_empty((6, columns), dtype=dtype)
    diagonal = z0.new_empty((columns,), dtype=dtype)
    # Triton's interpreter cannot round to bfloat16: torch does there.
    stored = z0.dtype if z0.is_cuda else dtype
    h0, h1 = (z0.new_empty((rows, columns), dtype=stored) for _ in range(2))
    for view, z in enumerate((z0, z1)):
        _statistics_kernel[grid](z, statistics, view, eps, rows, columns, *z.stride(), **constants)
    _standardise_kernel[grid](
        z0, z1, statistics, h0, h1, diagonal, rows, columns, *z0.stride(), *z1.stride(),
        **constants,
    )  # fmt: skip
    h0, h1 = h0.to(z0.dtype), h1.to(z0.dtype)
    if not with_gradient:
        none0, none1 = diagonal.new_empty(0), diagonal.new_empty(0)
        total = _total(h0, h1, _multiplied_diagonal(h0, h1, diagonal), begin, end)
        return none0, none1, total, diagonal, statistics
    slope0, slope1 = (diagonal.new_empty((end - begin, columns)) for _ in range(2))
    squares = diagonal.new_zeros((2, columns))
    if begin < end:
        _products(h0, h1, slope0, slope1, begin, end)
        _settle_kernel[grid](
            z0[begin:end], z1[begin:end], statistics, _multiplied_diagonal(h0, h1, diagonal),
            slope0, slope1, squares, 1.0 / rows**2, rows, end - begin, columns,
            *z0.stride(), *z1.stride(), WITH_DIAGONAL=_by_rows(h0), **constants,
        )  # fmt: skip
    return slope0, slope1, squares, diagonal, statistics


def barlow_twins_gradients(
    z0: Tensor,
    z1: Tensor,
    slope0: Tensor,
    slope1: Tensor,
    squares: Tensor,
    diagonal: Tensor,
    statistics: Tensor,
    lambda_: Tensor,
    total: int,
) -> tuple[Tensor, ...]:
    """Launcher of `ssl_fast::barlow_twins_gradients`."""
    loss = (diagonal - 1).square().sum() + lambda_ * squares[0].sum()
    grad0, grad1 = (torch.empty_like(slope, memory_format=torch.contiguous_format)
                    for slope in (slope0, slope1))  # fmt: skip
    if squares.dim() == 2 and slope0.numel():
        rows, columns = z0.shape
        constants = _constants(z0, columns)
        grid = tuple(
            triton.cdiv(size, constants[name])
            for size, name in ((rows, "ROWS"), (columns, "COLUMNS"))
        )
        _finish_kernel[grid](
            z0, z1, statistics.contiguous(), diagonal.contiguous(), slope0.contiguous(),
            slope1.contiguous(), squares.contiguous(), lambda_, grad0, grad1, total, rows, columns,
            *z0.stride(), *z1.stride(), **constants,
        )  # fmt: skip
    return loss, grad0, grad1


def barlow_twins_loss(
    z0: Tensor, z1: Tensor, lambda_: Tensor, eps: float, with_gradient: bool
) -> tuple[Tensor, ...]:
    """Launcher of `ssl_fast::barlow_twins_loss`."""
    rows = z0.shape[0]
    slope0, slope1, *columns = cross_correlation_rows(z0, z1, eps, 0, rows, with_gradient)
    squares, diagonal, statistics = columns
    return barlow_twins_gradients(
        z0, z1, slope0, slope1, squares, diagonal, statistics, lambda_, rows
    )
