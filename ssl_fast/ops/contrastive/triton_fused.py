"""Similarities that never leave the chip: products and all that is done with them in one kernel.

Tiles of features come in through tensor descriptors (TMA on Hopper) and meet in tensor cores. The
sums take each tile of a symmetric matrix once. A gradient goes along a row of tiles and holds the
row's gradient in registers, so that features are at most `MAX_SIZE` long.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .pairwise import Gradients, Pairs, Sums
from .triton_tiles import logits_of, matches, sigmoid_losses, softmax_weights, store_sums

MAX_SIZE = 256
SUMS_BYTES = 64 << 20  # for the sums of tiles
PARTS_BYTES = 64 << 20  # for parts of gradients
SUM_BLOCKS = 128, 64  # more would spill registers
WAVES = 2  # programs for each multiprocessor, if columns have to be divided for it


@triton.jit
def _fused_sums_kernel(
    row_features, column_features, scale, bias, targets, row_parts, column_parts, positive,
    losses, slopes, first_row, row_end, column_end, self_difference,
    HAS_SELF: tl.constexpr, COLUMNS: tl.constexpr, SYMMETRIC: tl.constexpr, SIGMOID: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums of one tile. Of a symmetric matrix, tiles below the diagonal are left to their mirror
    images; BLOCK_C divides BLOCK_R, so that no tile is half below.
    """
    row_tile, column_tile = tl.program_id(1), tl.program_id(0)
    start_row, start_column = first_row + row_tile * BLOCK_R, column_tile * BLOCK_C
    rows = start_row + tl.arange(0, BLOCK_R)
    columns = start_column + tl.arange(0, BLOCK_C)
    if SYMMETRIC and start_column < start_row:
        below = tl.full((BLOCK_R,), float("-inf"), tl.float32)
        at = row_parts + column_tile.to(tl.int64) * row_end + rows.to(tl.int64)
        tl.store(at, below, mask=rows < row_end)
        nothing = tl.full((BLOCK_C,), float("-inf"), tl.float32)
        at = column_parts + row_tile.to(tl.int64) * column_end + columns.to(tl.int64)
        tl.store(at, nothing, mask=columns < column_end)
    else:
        a = row_features.load([start_row, 0]).to(OPERAND)
        b = column_features.load([start_column, 0]).to(OPERAND)
        dots = tl.dot(a, tl.trans(b), input_precision=PRECISION)
        logits = logits_of(
            dots, tl.load(scale), rows, columns, row_end, column_end, self_difference, HAS_SELF
        )
        matched = matches(targets, rows, columns, row_end, column_end, True)
        if SIGMOID:
            loss, slope = sigmoid_losses(logits, matched, tl.load(bias))
            program = row_tile * tl.num_programs(0) + column_tile
            tl.store(losses + program, tl.sum(tl.sum(loss, axis=1), axis=0))
            tl.store(slopes + program, tl.sum(tl.sum(slope, axis=1), axis=0))
        else:
            store_sums(
                logits, matched, row_parts, column_parts, positive, rows, columns, row_end,
                column_end, column_tile, row_tile, start_row + BLOCK_R if SYMMETRIC else 0, COLUMNS,
            )  # fmt: skip


@triton.jit
def _fused_gradient_kernel(
    row_features, column_features, out, scale, bias, targets, row_lse, column_lse,
    row_end, column_end, columns_per_split, self_difference, size,
    HAS_SELF: tl.constexpr, USE_ROWS: tl.constexpr, USE_COLUMNS: tl.constexpr,
    SIGMOID: tl.constexpr, TARGETS_OF_ROWS: tl.constexpr, OPERAND: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Weights times columns, of a tile of rows and a part of the columns: [parts, R, size]."""
    start_row, split = tl.program_id(0) * BLOCK_R, tl.program_id(1)
    rows = start_row + tl.arange(0, BLOCK_R)
    factor = tl.load(scale)
    a = row_features.load([start_row, 0]).to(OPERAND)
    total = tl.zeros((BLOCK_R, SIZE), tl.float32)
    for step in range(0, columns_per_split, BLOCK_C):
        start = split * columns_per_split + step
        columns = start + tl.arange(0, BLOCK_C)
        b = column_features.load([start, 0]).to(OPERAND)
        dots = tl.dot(a, tl.trans(b), input_precision=PRECISION)
        logits = logits_of(
            dots, factor, rows, columns, row_end, column_end, self_difference, HAS_SELF
        )
        matched = matches(targets, rows, columns, row_end, column_end, TARGETS_OF_ROWS)
        if SIGMOID:
            _, weights = sigmoid_losses(logits, matched, tl.load(bias))
        else:
            weights = softmax_weights(
                logits, matched, row_lse, column_lse, rows, columns, row_end, column_end,
                USE_ROWS, USE_COLUMNS,
            )  # fmt: skip
        total = tl.dot(weights.to(OPERAND), b, total, input_precision=PRECISION)
    along = tl.arange(0, SIZE)
    row = split.to(tl.int64) * row_end + rows.to(tl.int64)
    exists = (rows < row_end)[:, None] & (along < size)[None, :]
    tl.store(out + row[:, None] * size + along[None, :], total, mask=exists)


def takes(pairs: Pairs, tf32: bool) -> bool:
    """Whether this way is right for these: short features that tensor cores take."""
    narrow = pairs.rows.dtype in (torch.float16, torch.bfloat16)
    exact = narrow or (pairs.rows.dtype == torch.float32 and tf32) or not pairs.rows.is_cuda
    fits = 0 < pairs.rows.shape[1] <= MAX_SIZE and pairs.rows.dtype != torch.float64
    return fits and exact and len(pairs.rows) > 0 and len(pairs.columns) > 0


class FusedWay:
    """The primitives of all pairwise losses, fused. See `pairwise.Way`.

    Args:
        pairs: which `takes` says this way is right for.
        tf32: whether float32 features may be rounded to TF32.
    """

    def __init__(self, pairs: Pairs, tf32: bool) -> None:
        self.pairs = pairs
        self.size = pairs.rows.shape[1]
        self.rows = _aligned(pairs.rows)
        self.columns = self.rows if pairs.symmetric else _aligned(pairs.columns)
        self.padded = max(triton.next_power_of_2(self.size), 16)
        # The interpreter's arithmetic of bfloat16 is wrong.
        dtype = pairs.rows.dtype if pairs.rows.is_cuda else torch.float32
        self.common = {
            "OPERAND": getattr(tl, str(dtype).removeprefix("torch.")),
            "PRECISION": "tf32" if tf32 and dtype == torch.float32 else "ieee",
            "HAS_SELF": pairs.self_offset >= 0,
        }

    def sums(self, over_columns: bool) -> Sums:
        """Sums of rows, of columns, and positives."""
        pairs, columns_too = self.pairs, over_columns or self.pairs.symmetric
        count, width = len(pairs.rows), len(pairs.columns)
        row_lse = pairs.new_empty(count).fill_(-torch.inf)
        column_lse = pairs.new_empty(width if columns_too else 0).fill_(-torch.inf)
        positive = pairs.new_empty(count)
        for begin, end in self._bands():
            tiles = self._tiles(begin, end)
            row_parts = pairs.new_empty(tiles[0], end)
            column_parts = pairs.new_empty(tiles[1] if columns_too else 0, width)
            self._launch_sums(begin, end, row_parts, column_parts, positive, None)
            row_lse[begin:end] = row_parts[:, begin:].logsumexp(dim=0)
            if columns_too:
                column_lse = torch.logaddexp(column_lse, column_parts.logsumexp(dim=0))
        if pairs.symmetric:
            row_lse = torch.logaddexp(row_lse, column_lse)
        return row_lse, column_lse if over_columns else column_lse[:0], positive

    def gradients(
        self, row_lse: Tensor | None, column_lse: Tensor | None, with_columns: bool
    ) -> Gradients:
        """Weights times columns, and their transpose times rows."""
        pairs = self.pairs
        grad_rows = self._gradient(row_lse, column_lse, None, transposed=False)
        if not with_columns or pairs.symmetric:
            return grad_rows, pairs.new_empty(0)
        return grad_rows, self._gradient(column_lse, row_lse, None, transposed=True)

    def sigmoid(self, bias: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sum of losses, gradients as above, sum of slopes."""
        unused = self.pairs.new_empty(0)
        losses, slopes = bias.new_zeros(()), bias.new_zeros(())
        for begin, end in self._bands():
            loss, slope = self._launch_sums(begin, end, unused, unused, unused, bias)
            losses, slopes = losses + loss, slopes + slope
        if not with_gradient:
            return losses, unused, unused, slopes
        grad_rows, grad_columns = (self._gradient(None, None, bias, side) for side in (False, True))
        return losses, grad_rows, grad_columns, slopes

    def _bands(self) -> list[tuple[int, int]]:
        """Rows that are taken at a time, so that sums of tiles fit in the workspace."""
        width, count = len(self.pairs.columns), len(self.pairs.rows)
        height = max(SUMS_BYTES // (4 * width), 1) * SUM_BLOCKS[0]
        return [(at, min(at + height, count)) for at in range(0, count, height)]

    def _tiles(self, begin: int, end: int) -> tuple[int, int]:
        rows, columns = SUM_BLOCKS
        return triton.cdiv(len(self.pairs.columns), columns), triton.cdiv(end - begin, rows)

    def _launch_sums(
        self,
        begin: int,
        end: int,
        row_parts: Tensor,
        column_parts: Tensor,
        positive: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        pairs, width = self.pairs, len(self.pairs.columns)
        tiles = self._tiles(begin, end)
        parts = pairs.new_empty(2, tiles[0] * tiles[1] if bias is not None else 0)
        _fused_sums_kernel[tiles](
            TensorDescriptor.from_tensor(self.rows, [SUM_BLOCKS[0], self.padded]),
            TensorDescriptor.from_tensor(self.columns, [SUM_BLOCKS[1], self.padded]),
            pairs.scale, pairs.scale if bias is None else bias, pairs.targets,
            row_parts, column_parts, positive, parts[0], parts[1],
            begin, end, width, -pairs.self_offset,
            COLUMNS=column_parts.numel() > 0, SYMMETRIC=pairs.symmetric, SIGMOID=bias is not None,
            BLOCK_R=SUM_BLOCKS[0], BLOCK_C=SUM_BLOCKS[1], num_warps=8, num_stages=2, **self.common,
        )  # fmt: skip
        return parts[0].sum(), parts[1].sum()

    def _gradient(
        self,
        row_lse: Tensor | None,
        column_lse: Tensor | None,
        bias: Tensor | None,
        transposed: bool,
    ) -> Tensor:
        pairs = self.pairs
        rows, columns = (self.columns, self.rows) if transposed else (self.rows, self.columns)
        blocks = _gradient_blocks(self.padded, rows.element_size(), rows.is_cuda)
        tiles = triton.cdiv(len(rows), blocks[0])
        splits = _splits(tiles, len(columns), blocks[1], len(rows) * self.size, rows.device)
        share = triton.cdiv(triton.cdiv(len(columns), splits), blocks[1]) * blocks[1]
        out = pairs.new_empty(splits, len(rows), self.size)
        _fused_gradient_kernel[(tiles, splits)](
            TensorDescriptor.from_tensor(rows, [blocks[0], self.padded]),
            TensorDescriptor.from_tensor(columns, [blocks[1], self.padded]),
            out, pairs.scale, pairs.scale if bias is None else bias, pairs.targets,
            pairs.scale if row_lse is None else row_lse,
            pairs.scale if column_lse is None else column_lse,
            len(rows), len(columns), share,
            pairs.self_offset if transposed else -pairs.self_offset, self.size,
            USE_ROWS=row_lse is not None, USE_COLUMNS=column_lse is not None,
            SIGMOID=bias is not None, TARGETS_OF_ROWS=not transposed,
            BLOCK_R=blocks[0], BLOCK_C=blocks[1], SIZE=self.padded,
            num_warps=8, num_stages=2, **self.common,
        )  # fmt: skip
        return out[0] if splits == 1 else out.sum(dim=0)


@functools.lru_cache
def _gradient_blocks(size: int, itemsize: int, on_gpu: bool) -> tuple[int, int]:
    """Rows held, and columns that go by. What is held: [rows, size] float32 in registers.

    As large as needs no spills on sm_90.
    """
    if on_gpu and itemsize == 4:
        return 64, 32
    return (128, 64) if on_gpu and size <= 128 else (64, 64)


def _splits(tiles: int, columns: int, block: int, elements: int, device: torch.device) -> int:
    """In how many parts columns are divided, so that few rows keep all multiprocessors busy."""
    processors = _processors(device) if device.type == "cuda" else 1
    wanted = triton.cdiv(WAVES * processors, tiles) if tiles < processors else 1
    return max(min(wanted, triton.cdiv(columns, block), PARTS_BYTES // (4 * elements)), 1)


@functools.lru_cache
def _processors(device: torch.device) -> int:
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def _aligned(x: Tensor) -> Tensor:
    """Rows that begin at multiples of 16 bytes, as a descriptor wants them."""
    each = 16 // x.element_size()
    x = F.pad(x, (0, -x.shape[1] % each)) if x.shape[1] % each else x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()
