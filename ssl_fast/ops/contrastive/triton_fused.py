"""Softmaxes of similarities that never leave the chip: products and all that is done with them in
one kernel.

All kernels go along a row of tiles. A gradient's row is held in registers, so that features are at
most `MAX_SIZE` long. See `triton_fused_kernels`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .pairwise import Gradients, Pairs, Sums
from .triton_fused_kernels import (
    _fused_gradient_kernel,
    _fused_sums_kernel,
    _join_sums_kernel,
)

MAX_SIZE = 256
PARTS_BYTES = 64 << 20  # for parts of gradients
BUSY = 0.9  # of the multiprocessors, if dividing columns can achieve it
JOINED = 16, 64  # parts and rows of the kernel that joins sums


class Tiles(NamedTuple):
    """How a kernel goes through the matrix.

    Attributes:
        rows: that a program holds.
        columns: that go by at a time.
        warps: of a program.
        stages: how many loads of columns are on the way.
        programs: that a multiprocessor has room for.
        registers: that a thread may have; None for as many as the compiler likes.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    programs: int
    registers: int | None = None


@functools.lru_cache
def sums_tiles(size: int, on_gpu: bool) -> Tiles:
    """For sums of features of this (padded) size."""
    if not on_gpu:  # few columns, so that small matrices have several tiles too
        return Tiles(64, 16, 4, 1, 1)
    return Tiles(128, 128, 8, 2, 2, 128) if size <= 128 else Tiles(128, 128, 8, 2, 1)


@functools.lru_cache
def gradient_tiles(size: int, on_gpu: bool) -> Tiles:
    """For gradients. As large as needs no spills on sm_90: [rows, size] float32 is in registers."""
    if not on_gpu:
        return Tiles(64, 16, 4, 1, 1)
    # Two small programs: one's products go on beside the other's exponentials.
    return Tiles(64, 128, 4, 2, 2) if size <= 128 else Tiles(128, 64, 8, 2, 1)


def takes(pairs: Pairs) -> bool:
    """Whether this way is right for these: short features that tensor cores take."""
    # The interpreter multiplies float32 too. TF32 was slower here than in panels.
    widest = 2 if pairs.rows.is_cuda else 4
    fits = 0 < pairs.rows.shape[1] <= MAX_SIZE and pairs.rows.element_size() <= widest
    return fits and len(pairs.rows) > 0 and len(pairs.columns) > 0


class FusedWay:
    """The primitives of the losses of softmaxes, fused. See `pairwise.Way`.

    Args:
        pairs: which `takes` says this way is right for.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.rows = _padded(pairs.rows)
        self.columns = self.rows if pairs.symmetric else _padded(pairs.columns)
        self.size = self.rows.shape[1]
        # The interpreter's arithmetic of bfloat16 is wrong.
        self.dtype = pairs.rows.dtype if pairs.rows.is_cuda else torch.float32
        power = max(triton.next_power_of_2(self.size), 16)
        self.tiled = power, pairs.rows.is_cuda
        self.common = {
            "OPERAND": getattr(tl, str(self.dtype).removeprefix("torch.")),
            "SIZE": power,
            "WHOLE": power == self.size,
        }

    def sums(self, over_columns: bool) -> Sums:
        """Sums of rows, of columns, and positives."""
        pairs = self.pairs
        positive = pairs.new_empty(len(pairs.rows))
        row_lse = self._sums(positive, transposed=False)
        if not over_columns:
            column_lse = pairs.new_empty(0)
        else:
            column_lse = row_lse if pairs.symmetric else self._sums(positive, transposed=True)
        return row_lse, column_lse, positive

    def gradients(
        self, row_lse: Tensor | None, column_lse: Tensor | None, with_columns: bool
    ) -> Gradients:
        """Weights times columns, and their transpose times rows."""
        grad_rows = self._gradient(row_lse, column_lse, transposed=False)
        if not with_columns or self.pairs.symmetric:
            return grad_rows, self.pairs.new_empty(0)
        return grad_rows, self._gradient(column_lse, row_lse, transposed=True)

    def _sides(self, transposed: bool) -> tuple[Tensor, Tensor, int]:
        """Rows, columns, and which row - column to leave out."""
        if transposed:
            return self.columns, self.rows, self.pairs.self_offset
        return self.rows, self.columns, -self.pairs.self_offset

    def _grid(
        self, rows: Tensor, columns: Tensor, tiles: Tiles, part_size: int
    ) -> tuple[tuple[int, int], int]:
        """Tiles of rows and parts of columns, and how many columns a part has."""
        count = triton.cdiv(len(rows), tiles.rows)
        most = min(
            triton.cdiv(len(columns), tiles.columns),
            max(PARTS_BYTES // (4 * part_size * len(rows)), 1),
        )
        splits = _splits(count, most, tiles.programs * _processors(rows.device))
        share = triton.cdiv(triton.cdiv(len(columns), splits), tiles.columns) * tiles.columns
        return (count, splits), share

    def _sums(self, positive: Tensor, transposed: bool) -> Tensor:
        pairs, tiles = self.pairs, sums_tiles(*self.tiled)
        rows, columns, self_difference = self._sides(transposed)
        grid, share = self._grid(rows, columns, tiles, 1)
        parts = pairs.new_empty(grid[1], len(rows))
        _fused_sums_kernel[grid](
            rows, columns, pairs.scale, pairs.stored_targets, parts, positive,
            len(rows), len(columns), share, self_difference, pairs.target_offset, self.size,
            HAS_SELF=pairs.self_offset >= 0, HAS_TARGETS=pairs.positives_stored,
            POSITIVES=pairs.positives is not None and not transposed,
            **_blocks(tiles), **self.common,
        )  # fmt: skip
        if grid[1] == 1:
            return parts[0]
        lse = pairs.new_empty(len(rows))
        _join_sums_kernel[(triton.cdiv(len(rows), JOINED[1]),)](
            parts, lse, len(rows), grid[1], BLOCK_S=JOINED[0], BLOCK_R=JOINED[1], num_warps=4
        )
        return lse

    def _gradient(
        self, row_lse: Tensor | None, column_lse: Tensor | None, transposed: bool
    ) -> Tensor:
        pairs, tiles = self.pairs, gradient_tiles(*self.tiled)
        rows, columns, self_difference = self._sides(transposed)
        size = pairs.rows.shape[1]
        grid, share = self._grid(rows, columns, tiles, size)
        out = pairs.new_empty(grid[1], len(rows), size)
        stored, offset = pairs.positives_stored, pairs.target_offset
        if transposed and offset > 0:  # back, around the end
            offset = len(pairs.columns) - offset
        _fused_gradient_kernel[grid](
            rows, columns, out, pairs.scale, pairs.stored_targets,
            pairs.scale if row_lse is None else row_lse,
            pairs.scale if column_lse is None else column_lse,
            len(rows), len(columns), share, self_difference, offset, len(pairs.columns),
            self.size, size,
            HAS_SELF=pairs.self_offset >= 0, USE_ROWS=row_lse is not None,
            USE_COLUMNS=column_lse is not None,
            HAS_TARGETS=stored and not transposed, OF_COLUMNS=stored and transposed,
            **_blocks(tiles), **self.common,
        )  # fmt: skip
        return out[0] if grid[1] == 1 else out.sum(dim=0)


def _blocks(tiles: Tiles) -> dict[str, int | None]:
    return {
        "BLOCK_R": tiles.rows,
        "BLOCK_C": tiles.columns,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
        "maxnreg": tiles.registers,
    }


def _splits(tiles: int, most: int, places: int) -> int:
    """In how many parts columns are divided: the fewest that keep `BUSY` of all places busy."""
    most = max(min(most, max(places // tiles, 4)), 1)
    busy = [tiles * n / (triton.cdiv(tiles * n, places) * places) for n in range(1, most + 1)]
    enough = (n for n, share in enumerate(busy, 1) if share >= BUSY)
    return next(enough, busy.index(max(busy)) + 1)


@functools.lru_cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def _padded(x: Tensor) -> Tensor:
    """Rows of a multiple of 16 numbers, which are loaded 16 bytes at a time."""
    return F.pad(x, (0, -x.shape[1] % 16)) if x.shape[1] % 16 else x.contiguous()
