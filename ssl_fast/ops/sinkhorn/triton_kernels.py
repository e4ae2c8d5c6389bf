"""Sinkhorn's sweeps in Triton. A program takes a few whole rows, block by block of columns; sums of
columns come in two stages, each in a fixed order: there are no atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference

# Programs of a sweep at most: each writes its own sums of all columns.
PROGRAMS = 1024


@triton.jit
def _columns_kernel(
    scores, epsilon, largest, sums, samples, prototypes, chunk, stride_n, stride_k,
    COMPUTE: tl.constexpr, LOWEST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of a chunk of rows and a block of columns: the largest scores, the sums relative to them."""
    k = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = k < prototypes
    part = tl.program_id(1).to(tl.int64)
    eps = tl.load(epsilon)
    most = tl.full((COLUMNS,), LOWEST, COMPUTE)
    total = tl.zeros((COLUMNS,), COMPUTE)
    for start in range(0, chunk, ROWS):
        n = part * chunk + start + tl.arange(0, ROWS)
        exists = (start + tl.arange(0, ROWS) < chunk) & (n < samples)
        places = n[:, None] * stride_n + k[None, :] * stride_k
        x = tl.load(scores + places, mask=exists[:, None] & inside[None, :], other=-float("inf"))
        x = x.to(COMPUTE)
        new = tl.maximum(most, tl.max(x, axis=0))
        total = total * tl.exp((most - new) / eps)
        total += tl.sum(tl.exp((x - new[None, :]) / eps), axis=0)
        most = new
    tl.store(largest + part * prototypes + k, most, mask=inside)
    tl.store(sums + part * prototypes + k, total, mask=inside)


@triton.jit
def _join_kernel(
    largest, sums, epsilon, maxima, totals, parts, prototypes,
    COMPUTE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = k < prototypes
    eps = tl.load(epsilon)
    most = tl.full((COLUMNS,), -float("inf"), COMPUTE)
    at = k
    for _ in range(0, parts):
        most = tl.maximum(most, tl.load(largest + at, mask=inside, other=0))
        at += prototypes
    total = tl.zeros((COLUMNS,), COMPUTE)
    at = k
    for _ in range(0, parts):
        scale = tl.exp((tl.load(largest + at, mask=inside, other=0) - most) / eps)
        total += tl.load(sums + at, mask=inside, other=0) * scale
        at += prototypes
    tl.store(maxima + k, most, mask=inside)
    tl.store(totals + k, total, mask=inside)


@triton.jit
def _block(
    scores, maxima, n, exists, start, samples, prototypes, stride_n, stride_k,
    COMPUTE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Places of a block of columns, which of them exist, its scores less the columns' largest."""
    k = (start + tl.arange(0, COLUMNS)).to(tl.int64)
    inside = k < prototypes
    places = n[:, None] * stride_n + k[None, :] * stride_k
    x = tl.load(scores + places, mask=exists[:, None] & inside[None, :], other=-float("inf"))
    shift = tl.load(maxima + k, mask=inside, other=0)
    return k, inside, x.to(COMPUTE) - shift[None, :]


@triton.jit
def _rows_kernel(
    scores, epsilon, maxima, sums, least, out, samples, prototypes, each, stride_n, stride_k,
    ASSIGN: tl.constexpr, COMPUTE: tl.constexpr, LOWEST: tl.constexpr, LEAST: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Rows to sum 1: `out` is the assignments, or each program's sums of columns."""
    eps = tl.load(epsilon)
    smallest = tl.load(least)
    program = tl.program_id(0).to(tl.int64)
    for step in range(0, each):
        n = (program * each + step) * ROWS + tl.arange(0, ROWS)
        exists = n < samples
        most = tl.full((ROWS,), LOWEST, COMPUTE)
        total = tl.zeros((ROWS,), COMPUTE)
        for start in range(0, prototypes, COLUMNS):
            k, inside, x = _block(
                scores, maxima, n, exists, start, samples, prototypes, stride_n, stride_k,
                COMPUTE, COLUMNS,
            )  # fmt: skip
            weight = tl.load(sums + k, mask=inside, other=1)
            weight = smallest / weight
            weight = tl.where(weight < LEAST, LEAST, weight)
            new = tl.maximum(most, tl.max(x, axis=1))
            e = tl.exp((x - new[:, None]) / eps) * weight[None, :]
            total = total * tl.exp((most - new) / eps) + tl.sum(e, axis=1)
            most = new
        scale = tl.where(exists, 1 / total, 0)
        for start in range(0, prototypes, COLUMNS):
            k, inside, x = _block(
                scores, maxima, n, exists, start, samples, prototypes, stride_n, stride_k,
                COMPUTE, COLUMNS,
            )  # fmt: skip
            e = tl.exp((x - most[:, None]) / eps)
            if ASSIGN:
                weight = tl.load(sums + k, mask=inside, other=1)
                weight = smallest / weight
                weight = tl.where(weight < LEAST, LEAST, weight)
                places = n[:, None] * prototypes + k[None, :]
                value = e * weight[None, :] * scale[:, None]
                tl.store(out + places, value, mask=exists[:, None] & inside[None, :])
            else:
                part = tl.sum(tl.where(exists[:, None], e * scale[:, None], 0), axis=0)
                if step > 0:
                    part += tl.load(out + program * prototypes + k, mask=inside, other=0)
                tl.store(out + program * prototypes + k, part, mask=inside)


class _Call:
    """What the sweeps have in common: the arguments, constants and numbers of programs."""

    def __init__(self, scores: Tensor, epsilon: Tensor) -> None:
        self.samples, self.prototypes = scores.shape
        self.scores, self.epsilon = scores, epsilon
        self.dtype = reference.compute_dtype(scores.dtype)
        # The interpreter pays by the program.
        widest = 256 if scores.is_cuda else 4096
        self.rows = 16 if scores.is_cuda else 64
        self.columns = max(16, min(widest, triton.next_power_of_2(self.prototypes)))
        self.column_blocks = triton.cdiv(self.prototypes, self.columns)
        wide = self.dtype == torch.float64
        self.constants = {
            "COMPUTE": tl.float64 if wide else tl.float32,
            "COLUMNS": self.columns,
            "num_warps": 8,
        }
        self.lowest = {"LOWEST": -1e308 if wide else -3e38, "ROWS": self.rows}

    def new(self, *shape: int) -> Tensor:
        return self.scores.new_empty(shape, dtype=self.dtype)

    def rows_kernel(self, maxima: Tensor, sums: Tensor, assign: bool) -> Tensor:
        """The assignments, or the sums of columns by program."""
        blocks = triton.cdiv(self.samples, self.rows)
        each = 1 if assign else max(1, triton.cdiv(blocks, PROGRAMS))
        programs = triton.cdiv(blocks, each)
        out = self.new(self.samples if assign else programs, self.prototypes)
        maxima, sums = maxima.contiguous(), sums.contiguous()
        if programs:
            _rows_kernel[(programs,)](
                self.scores, self.epsilon, maxima, sums, sums.amin(), out, self.samples,
                self.prototypes, each, *self.scores.stride(), ASSIGN=assign,
                LEAST=reference.LEAST_WEIGHT, **self.lowest, **self.constants,
            )  # fmt: skip
        return out


def sinkhorn_columns(scores: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """Launcher of `ssl_fast::sinkhorn_columns`."""
    call = _Call(scores, epsilon)
    # Enough programs for a large GPU, however few columns there are.
    parts = min(triton.cdiv(call.samples, call.rows), max(1, PROGRAMS // call.column_blocks))
    if parts == 0:
        return reference.sinkhorn_columns(scores, epsilon)
    chunk = triton.cdiv(triton.cdiv(call.samples, parts), call.rows) * call.rows
    parts = triton.cdiv(call.samples, chunk)
    largest, sums = call.new(parts, call.prototypes), call.new(parts, call.prototypes)
    maxima, totals = call.new(call.prototypes), call.new(call.prototypes)
    _columns_kernel[(call.column_blocks, parts)](
        scores, epsilon, largest, sums, call.samples, call.prototypes, chunk, *scores.stride(),
        **call.lowest, **call.constants,
    )  # fmt: skip
    _join_kernel[(call.column_blocks,)](
        largest, sums, epsilon, maxima, totals, parts, call.prototypes, **call.constants
    )
    return maxima, totals


def sinkhorn_sweep(scores: Tensor, epsilon: Tensor, maxima: Tensor, sums: Tensor) -> Tensor:
    """Launcher of `ssl_fast::sinkhorn_sweep`."""
    return _Call(scores, epsilon).rows_kernel(maxima, sums, assign=False).sum(dim=0)


def sinkhorn_assign(scores: Tensor, epsilon: Tensor, maxima: Tensor, sums: Tensor) -> Tensor:
    """Launcher of `ssl_fast::sinkhorn_assign`."""
    return _Call(scores, epsilon).rows_kernel(maxima, sums, assign=True)


def sinkhorn(scores: Tensor, epsilon: Tensor, iterations: int) -> Tensor:
    """Launcher of `ssl_fast::sinkhorn`."""
    maxima, sums = sinkhorn_columns(scores, epsilon)
    for _ in range(iterations - 1):
        sums = sinkhorn_sweep(scores, epsilon, maxima, sums)
    return sinkhorn_assign(scores, epsilon, maxima, sums)
