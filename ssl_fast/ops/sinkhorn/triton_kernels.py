"""Launchers of Sinkhorn's sweeps in Triton; triton_sweeps.py has the kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

from . import reference
from .triton_sweeps import (
    columns_kernel,
    join_kernel,
    long_rows_kernel,
    row_sums_kernel,
    short_rows_kernel,
)


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up. (Triton's own takes microseconds.)"""
    return -(-a // b)


@dataclass
class Sizes:
    """How the work is cut, in float32; in float64 tiles are half as large.

    Attributes:
        tile: elements that a program of 8 warps holds in registers, of short rows.
        longest: the longest short row.
        programs: of a sweep over short rows, at most, half as many if a row is longer than `tile`:
            each writes its own sums of all columns.
        parts: programs of what goes by chunks of rows and blocks of columns, about.
        rows, columns: of the tiles of those.
        row_sums: rows and columns of the tiles that rows are summed by.
        join: parts and columns of the tiles that parts are joined by.
    """

    tile: int
    longest: int
    programs: int
    parts: int
    rows: int
    columns: int
    row_sums: tuple[int, int]
    join: tuple[int, int]


# Two programs fit on each of a large GPU's 132 processors.
GPU = Sizes(4096, 16384, 264, 1056, 16, 256, (4, 1024), (64, 32))
# The interpreter pays by the program, and sums a tile's rows one after the other.
INTERPRETER = Sizes(1024, 1024, 8, 8, 64, 1024, (64, 1024), (4, 4096))


class _Call:
    """What the sweeps have in common: the arguments, constants and numbers of programs."""

    def __init__(self, scores: Tensor, epsilon: Tensor) -> None:
        self.samples, self.prototypes = scores.shape
        self.scores, self.epsilon = scores, epsilon
        self.dtype = reference.compute_dtype(scores.dtype)
        self.sizes = GPU if scores.is_cuda else INTERPRETER
        wide = self.dtype == torch.float64
        stride_n, stride_k = scores.stride()
        # What a load of 16 bytes takes, if all rows and their ends are aligned to it.
        unit = math.gcd(16 // scores.element_size(), self.prototypes, stride_n)
        unit = unit if stride_k == 1 else 1
        self.units, self.strides = self.prototypes // unit, (stride_n // unit, stride_k)
        self.number = {
            "COMPUTE": tl.float64 if wide else tl.float32,
            "LARGEST": 1e308 if wide else 3e38,
        }
        self.constants = {**self.number, "UNIT": unit}
        self.tile = self.sizes.tile // (2 if wide else 1)
        self.row = max(16, 1 << (self.prototypes - 1).bit_length())
        self.short = self.row <= self.sizes.longest // (2 if wide else 1)
        self.columns = min(self.sizes.columns, self.row)
        self.column_blocks = cdiv(self.prototypes, self.columns)

    def new(self, *shape: int) -> Tensor:
        return self.scores.new_empty(shape, dtype=self.dtype)

    def chunks(self) -> tuple[int, int]:
        """Rows of a chunk, and how many chunks: all columns' give enough programs."""
        rows = self.sizes.rows
        blocks = cdiv(self.samples, rows)
        chunk = cdiv(blocks, max(1, self.sizes.parts // self.column_blocks)) * rows
        return chunk, cdiv(self.samples, chunk)

    def tiles(self) -> dict[str, int]:
        return {"ROWS": self.sizes.rows, "COLUMNS": self.columns, "num_warps": 8}

    def column_sums(self) -> tuple[Tensor, Tensor]:
        """Maxima of columns, and sums relative to them."""
        chunk, parts = self.chunks()
        largest, sums = self.new(parts, self.prototypes), self.new(parts, self.prototypes)
        columns_kernel[(self.column_blocks, parts)](
            self.scores, self.epsilon, largest, sums, self.samples, self.units, chunk,
            *self.strides, **self.constants, **self.tiles(),
        )  # fmt: skip
        return self.joined(sums, largest)

    def joined(self, sums: Tensor, largest: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The maxima, where there are any, and the sums of all parts."""
        totals = self.new(self.prototypes)
        maxima = totals if largest is None else self.new(self.prototypes)
        parts, columns = self.sizes.join
        columns = min(columns, self.row)
        join_kernel[(cdiv(self.prototypes, columns),)](
            sums if largest is None else largest, sums, self.epsilon, maxima, totals,
            sums.shape[0], self.prototypes, MAXIMA=largest is not None, PARTS=parts,
            COLUMNS=columns, num_warps=4, **self.number,
        )  # fmt: skip
        return maxima, totals

    def rows(self, maxima: Tensor, sums: Tensor, assign: bool) -> Tensor:
        """The assignments, or the sums of columns by program."""
        over_rows = self.short_rows if self.short else self.long_rows
        return over_rows(maxima.contiguous(), sums.contiguous(), assign)

    def short_rows(self, maxima: Tensor, sums: Tensor, assign: bool) -> Tensor:
        rows = max(1, self.tile // self.row)
        blocks = cdiv(self.samples, rows)
        most = self.sizes.programs // (1 if self.row <= self.tile else 2)
        each = max(1, cdiv(blocks, most))
        programs = cdiv(blocks, each)
        out = self.new(self.samples if assign else programs, self.prototypes)
        if programs:
            short_rows_kernel[(programs,)](
                self.scores, self.epsilon, maxima, sums, out, self.samples, self.units, each,
                *self.strides, ASSIGN=assign, LEAST=reference.LEAST_WEIGHT, ROWS=rows,
                COLUMNS=self.row, num_warps=8 if self.row <= self.tile else 16, **self.constants,
            )  # fmt: skip
        return out

    def long_rows(self, maxima: Tensor, sums: Tensor, assign: bool) -> Tensor:
        if self.samples == 0:
            return self.new(0, self.prototypes)
        chunk, parts = self.chunks()
        out = self.new(self.samples if assign else parts, self.prototypes)
        largest, scales = self.new(self.samples), self.new(self.samples)
        tensors = self.scores, self.epsilon, maxima, sums, sums.amin(), largest, scales
        constants = {**self.constants, "LEAST": reference.LEAST_WEIGHT}
        rows, columns = self.sizes.row_sums
        row_sums_kernel[(cdiv(self.samples, rows),)](
            *tensors, self.samples, self.units, *self.strides,
            ROWS=rows, COLUMNS=columns, num_warps=8, **constants,
        )  # fmt: skip
        long_rows_kernel[(self.column_blocks, parts)](
            *tensors, out, self.samples, self.units, chunk, *self.strides,
            ASSIGN=assign, **constants, **self.tiles(),
        )  # fmt: skip
        return out

    def sweep(self, maxima: Tensor, sums: Tensor) -> Tensor:
        """The columns' new sums."""
        parts = self.rows(maxima, sums, assign=False)
        return self.joined(parts)[1]


def sinkhorn_columns(scores: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """Launcher of `ssl_fast::sinkhorn_columns`."""
    if scores.shape[0] == 0:
        return reference.sinkhorn_columns(scores, epsilon)
    return _Call(scores, epsilon).column_sums()


def sinkhorn_sweep(scores: Tensor, epsilon: Tensor, maxima: Tensor, sums: Tensor) -> Tensor:
    """Launcher of `ssl_fast::sinkhorn_sweep`."""
    return _Call(scores, epsilon).sweep(maxima, sums)


def sinkhorn_assign(scores: Tensor, epsilon: Tensor, maxima: Tensor, sums: Tensor) -> Tensor:
    """Launcher of `ssl_fast::sinkhorn_assign`."""
    return _Call(scores, epsilon).rows(maxima, sums, assign=True)


def sinkhorn(scores: Tensor, epsilon: Tensor, iterations: int) -> Tensor:
    """Launcher of `ssl_fast::sinkhorn`."""
    call = _Call(scores, epsilon)
    maxima, sums = call.column_sums()
    for _ in range(iterations - 1):
        sums = call.sweep(maxima, sums)
    return call.rows(maxima, sums, assign=True)
