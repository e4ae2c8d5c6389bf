"""The Barlow Twins loss on a GPU: products are torch's, what stands around them is Triton's
(triton_columns.py). As in `csrc/cross_correlation/cross_correlation_torch.cpp`, the slopes of the
off-diagonal sum come from D x D matrices, a panel at a time, or from N x N ones where there are few
rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

from . import reference
from .triton_columns import (
    finish_kernel,
    round_kernel,
    settle_kernel,
    split_kernel,
    standardise_kernel,
)

PANEL_BYTES = 128 << 20  # of parts of C, or of the matrices of rows, at a time
BLOCK = 1024  # elements of a program that goes through a matrix


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up. (Triton's own takes microseconds.)"""
    return -(-a // b)


def _tile(rows: int, columns: int, itemsize: int) -> tuple[int, int, int]:
    """Rows and columns that a program holds at a time, and its warps: by a sweep of twelve such on
    an H200, as is in flight what keeps memory busy. Few columns need much of it in each program.
    """
    if itemsize == 8:
        return 64, 16, 4
    if columns <= 1024:
        return 512, 8, 8
    if rows > 256 or columns <= 2048:
        return 256, 16, 8
    return (64, 16, 4) if itemsize == 4 else (128, 32, 8)


def _constants(z: Tensor) -> dict[str, object]:
    wide = z.dtype == torch.float64
    count, columns = z.shape
    rows, width, warps = _tile(count, columns, z.element_size())
    if not z.is_cuda:  # the interpreter pays by the program
        rows, width = 64, min(1024, 1 << (columns - 1).bit_length())
    return {
        "COMPUTE": tl.float64 if wide else tl.float32,
        "ROWS": rows,
        "COLUMNS": width,
        "num_warps": warps,
    }


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, in float32 whatever they are (float64 for float64)."""
    if torch.is_autocast_enabled(a.device.type):  # entering the context costs more than asking
        with torch.autocast(a.device.type, enabled=False):
            return _multiply(a, b)
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


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
    """First and last column of panels, and their part of N * C, [D, d]."""
    columns = h0.shape[1]
    size = 1 + PANEL_BYTES // (4 * columns)
    for first in range(0, columns, size):
        last = min(first + size, columns)
        yield first, last, _multiply(h0.T, h1[:, first:last])


@dataclass
class _Views:
    """Both views, standardised.

    Attributes:
        h0, h1: [N, D]; of halves rounded to z's type.
        twice0, twice1: [2 N, D], h twice where products by rows take two halves; else h.
        diagonal: of C, [D].
        multiplied: the diagonal as products of these h have it: of rounded ones, another one.
        statistics: [6, D].
    """

    h0: Tensor
    h1: Tensor
    twice0: Tensor
    twice1: Tensor
    diagonal: Tensor
    multiplied: Tensor
    statistics: Tensor


def _standardise(z0: Tensor, z1: Tensor, eps: float) -> _Views:
    rows, columns = z0.shape
    dtype = reference.compute_dtype(z0.dtype)
    constants = _constants(z0)
    twice = _by_rows(z0) and z0.dtype != dtype
    statistics = z0.new_empty((6, columns), dtype=dtype)
    diagonal = z0.new_empty((columns,), dtype=dtype)
    # Triton's interpreter cannot round to bfloat16: torch does there.
    fused = twice and z0.is_cuda
    multiplied = torch.empty_like(diagonal) if fused else diagonal
    shape, stored = (2 * rows if fused else rows, columns), z0.dtype if z0.is_cuda else dtype
    h0, h1 = z0.new_empty(shape, dtype=stored), z0.new_empty(shape, dtype=stored)
    standardise_kernel[(cdiv(columns, constants["COLUMNS"]),)](
        z0, z1, statistics, h0, h1, diagonal, multiplied, rows, columns,
        *z0.stride(), *z1.stride(), EPS=eps, ROUNDED=fused, TWICE=fused, **constants,
    )  # fmt: skip
    if not z0.is_cuda:
        h0, h1 = h0.to(z0.dtype), h1.to(z0.dtype)
        if twice:
            multiplied = (h0.to(dtype) * h1).mean(dim=0)
            h0, h1 = torch.cat([h0, h0]), torch.cat([h1, h1])
    return _Views(h0[:rows], h1[:rows], h0, h1, diagonal, multiplied, statistics)


def _total(views: _Views, begin: int, end: int) -> Tensor:
    """The sum of C_ij^2, i != j, these rows' part, [1]."""
    rows = views.h0.shape[0]
    total = views.diagonal.new_zeros(1)
    if _by_rows(views.h0):
        for _, _, of0, of1 in _row_panels(views.h0, views.h1, begin, end):
            total += (of0 * of1).sum() / rows**2
        return total - views.multiplied.square().sum() * ((end - begin) / rows)
    for first, last, panel in _column_panels(views.h0, views.h1):
        panel[first:last].diagonal().zero_()
        total += panel.square().sum() * ((end - begin) / rows / rows**2)
    return total


def _halves(of0: Tensor, of1: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Matrices [n, N] that `dtype` is too short for as [n, 2 N]: rounded, and what that leaves."""
    if of0.dtype == dtype:
        return of0, of1
    if not of0.is_cuda:
        rounded = [of.to(dtype) for of in (of0, of1)]
        left = [(of - high).to(dtype) for of, high in zip((of0, of1), rounded, strict=True)]
        pairs = [torch.cat(pair, dim=1) for pair in zip(rounded, left, strict=True)]
        return pairs[0], pairs[1]
    count, columns = of0.shape
    out0, out1 = (of0.new_empty((count, 2 * columns), dtype=dtype) for _ in range(2))
    split_kernel[(cdiv(of0.numel(), BLOCK), 2)](
        of0, of1, out0, out1, of0.numel(), columns, BLOCK=BLOCK
    )
    return out0, out1


def _products_by_rows(views: _Views, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """N^2 times the slopes of half the sum of all C_ij^2."""
    slope0 = slope1 = views.diagonal
    for first, last, *gram in _row_panels(views.h0, views.h1, begin, end):
        of0, of1 = _halves(gram[0], gram[1], views.h0.dtype)
        part0, part1 = _multiply(of1, views.twice0), _multiply(of0, views.twice1)
        if (first, last) == (begin, end):  # the rule: nothing to copy
            return part0, part1
        if first == begin:
            slope0, slope1 = (part0.new_empty((end - begin, part0.shape[1])) for _ in range(2))
        slope0[first - begin : last - begin] = part0
        slope1[first - begin : last - begin] = part1
    return slope0, slope1


def _rounded(panel: Tensor, first: int, last: int, h: Tensor) -> Tensor:
    """A panel of N * C without its diagonal, of h's type; of halves over N: float16 holds that."""
    if panel.dtype != h.dtype and panel.is_cuda:
        out = torch.empty_like(panel, dtype=h.dtype)
        round_kernel[(cdiv(panel.numel(), BLOCK),)](
            panel, out, panel.numel(), last - first, first, h.shape[0], BLOCK=BLOCK
        )
        return out
    panel[first:last].diagonal().zero_()
    return panel if panel.dtype == h.dtype else (panel / h.shape[0]).to(h.dtype)


def _products_by_columns(views: _Views, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """N^2 times the slopes of half the sum of C_ij^2, i != j; of halves N times these."""
    h0, h1 = views.h0, views.h1
    slope0 = slope1 = views.diagonal
    for first, last, panel in _column_panels(h0, h1):
        c = _rounded(panel, first, last, h0)
        part1 = _multiply(h0[begin:end], c)
        part0 = _multiply(h1[begin:end, first:last], c.T)
        if last - first == h0.shape[1]:  # nothing to copy
            return part0, part1
        if first == 0:
            slope0, slope1 = part0, torch.empty_like(part0)
        else:
            slope0 += part0
        slope1[:, first:last] = part1
    return slope0, slope1


def _slopes(
    z0: Tensor, z1: Tensor, views: _Views, weight: Tensor | None, begin: int, end: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes and sums of squares, [2, D], of these rows; with a weight, of all rows, gradients
    and parts of the loss.
    """
    by_rows, columns = _by_rows(z0), z0.shape[1]
    slope0, slope1 = (_products_by_rows if by_rows else _products_by_columns)(views, begin, end)
    constants = _constants(z0)
    programs = cdiv(columns, constants["COLUMNS"])
    finish = weight is not None
    sums = slope0.new_empty((programs,) if finish else (2, columns))
    settle_kernel[(programs,)](
        z0[begin:end], z1[begin:end], views.statistics, views.diagonal, views.multiplied,
        slope0, slope1, sums, weight if finish else sums, sums, z0.shape[0], end - begin, columns,
        *z0.stride(), *z1.stride(), SQUARED=by_rows or views.h0.dtype == slope0.dtype,
        WITH_DIAGONAL=by_rows, FINISH=finish, **constants,
    )  # fmt: skip
    return slope0, slope1, sums


def cross_correlation_rows(
    z0: Tensor, z1: Tensor, eps: float, begin: int, end: int, with_gradient: bool
) -> tuple[Tensor, ...]:
    """Launcher of `ssl_fast::cross_correlation_rows`."""
    views = _standardise(z0, z1, eps)
    diagonal, statistics = views.diagonal, views.statistics
    if not with_gradient:
        none0, none1 = diagonal.new_empty(0), diagonal.new_empty(0)
        return none0, none1, _total(views, begin, end), diagonal, statistics
    if begin == end:
        slope0, slope1 = (diagonal.new_empty((0, z0.shape[1])) for _ in range(2))
        return slope0, slope1, diagonal.new_zeros((2, z0.shape[1])), diagonal, statistics
    return *_slopes(z0, z1, views, None, begin, end), diagonal, statistics


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
        constants = _constants(z0)
        grid = tuple(
            cdiv(size, constants[name]) for size, name in ((rows, "ROWS"), (columns, "COLUMNS"))
        )
        finish_kernel[grid](
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
    if with_gradient:
        grad0, grad1, losses = _slopes(z0, z1, _standardise(z0, z1, eps), lambda_, 0, rows)
        return losses.sum(), grad0, grad1
    views = _standardise(z0, z1, eps)
    loss = (views.diagonal - 1).square().sum() + lambda_ * _total(views, 0, rows)[0]
    return loss, loss.new_empty(0), loss.new_empty(0)
