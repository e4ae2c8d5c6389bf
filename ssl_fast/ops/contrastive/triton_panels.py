"""Similarities panel by panel: products by the vendor's library, one kernel for all the rest.

A panel is a number of rows against all columns (of a symmetric matrix, those from its first row
on). Its workspace is `WORKSPACE` bytes at most, or `OF_COLUMNS` times what the columns take.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .pairwise import Gradients, Pairs, Sums, product, product_into
from .reference import compute_dtype
from .triton_rows import target_of
from .triton_sums import PanelSums
from .triton_tiles import logits_of, sigmoid_losses, softmax_weights

WORKSPACE = 384 << 20
OF_COLUMNS = 2  # so that a long queue, beside few rows, is read once
BLOCK_ROWS, BLOCK_COLUMNS = 32, 128


@triton.jit
def _tile(first_row, first_column, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Rows and columns of the program's tile, in the whole matrix."""
    rows = first_row + tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    columns = first_column + tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    return rows, columns


@triton.jit
def _offsets(rows, columns, first_row, first_column, row_end, column_end):
    """Where a tile lies in its panel, and which of it is there."""
    width = (column_end - first_column).to(tl.int64)
    offsets = (rows - first_row).to(tl.int64)[:, None] * width + (columns - first_column)[None, :]
    return offsets, (rows < row_end)[:, None] & (columns < column_end)[None, :]


@triton.jit
def _panel_weights_kernel(
    dots, weights, scale, bias, targets, row_lse, column_lse, losses, slopes,
    first_row, row_end, first_column, column_end, self_difference, target_offset,
    HAS_TARGETS: tl.constexpr, HAS_SELF: tl.constexpr,
    USE_ROWS: tl.constexpr, USE_COLUMNS: tl.constexpr, SIGMOID: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Weights of a tile, over its dots or beside them; of SigLIP also the sums of its losses and
    of their slopes.
    """
    rows, columns = _tile(first_row, first_column, BLOCK_R, BLOCK_C)
    offsets, exists = _offsets(rows, columns, first_row, first_column, row_end, column_end)
    tile = tl.load(dots + offsets, mask=exists, other=0)
    logits = logits_of(
        tile, tl.load(scale), rows, columns, row_end, column_end, self_difference, HAS_SELF
    )
    target = target_of(targets, rows, row_end, column_end, target_offset, HAS_TARGETS)
    matched = target[:, None] == columns[None, :]
    if SIGMOID:
        loss, result = sigmoid_losses(logits, matched, tl.load(bias))
        program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        tl.store(losses + program, tl.sum(tl.sum(loss, axis=1), axis=0))
        tl.store(slopes + program, tl.sum(tl.sum(result, axis=1), axis=0))
    else:
        result = softmax_weights(
            logits, matched, row_lse, column_lse, rows, columns, row_end, column_end,
            USE_ROWS, USE_COLUMNS,
        )  # fmt: skip
    tl.store(weights + offsets, result.to(weights.dtype.element_ty), mask=exists)


class _Total:
    """Sums of what panels add to the gradients."""

    def __init__(self, pairs: Pairs, with_columns: bool) -> None:
        self.pairs = pairs
        self.with_columns = with_columns and not pairs.symmetric
        shape = pairs.columns.shape if self.with_columns else (0,)
        self.grad_rows = pairs.new_empty(*pairs.rows.shape)
        self.grad_columns = pairs.new_empty(*shape)
        if not len(pairs.rows) or not len(pairs.columns):  # no panel will come
            self.grad_rows.zero_()
            self.grad_columns.zero_()

    def add(self, begin: int, end: int, weights: Tensor) -> None:
        """Of the panel of these rows."""
        pairs, first = self.pairs, begin if self.pairs.symmetric else 0
        weights = weights if weights.is_cuda else weights.to(pairs.rows.dtype)
        rows, later = pairs.rows[begin:end], begin > 0
        columns = pairs.columns[first:]
        product_into(self.grad_rows[begin:end], weights, columns, later and pairs.symmetric)
        if self.with_columns:
            product_into(self.grad_columns, weights.T, rows, later)
        elif pairs.symmetric and end < len(pairs.rows):
            product_into(self.grad_rows[end:], weights[:, end - begin :].T, rows, later)


def _panels(pairs: Pairs) -> Iterator[tuple[int, int]]:
    """First row and end of each panel; none of a matrix without elements."""
    if not len(pairs.columns):
        return
    wide = compute_dtype(pairs.rows.dtype).itemsize
    narrow = pairs.rows.dtype.itemsize
    needed = len(pairs.columns) * (wide if narrow == wide else wide + narrow)
    workspace = max(WORKSPACE, OF_COLUMNS * pairs.columns.nbytes)
    height = max(workspace // needed // BLOCK_ROWS * BLOCK_ROWS, BLOCK_ROWS)
    for begin in range(0, len(pairs.rows), height):
        yield begin, min(begin + height, len(pairs.rows))


class PanelWay:
    """The primitives of all pairwise losses, by panels. See `pairwise.Way`."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.panels = list(_panels(pairs))
        self.kept: Tensor | None = None  # the dots, where all are one panel

    def sums(self, over_columns: bool) -> Sums:
        """Sums of rows, of columns, and positives."""
        sums = PanelSums(self.pairs, over_columns)
        if not self.panels:
            sums.row_lse.fill_(-torch.inf)
            sums.column_lse.fill_(-torch.inf)
            sums.positive.zero_()
        for begin, end in self.panels:
            sums.add(self._dots(begin, end), begin, end)
        return sums.row_lse, sums.column_lse, sums.positive

    def gradients(
        self, row_lse: Tensor | None, column_lse: Tensor | None, with_columns: bool
    ) -> Gradients:
        """Weights times columns, and their transpose times rows."""
        total = _Total(self.pairs, with_columns)
        for begin, end in self.panels:
            total.add(begin, end, self._weights(begin, end, row_lse, column_lse))
        return total.grad_rows, total.grad_columns

    def sigmoid(self, bias: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Parts of the sum of losses, gradients as above, parts of the sum of slopes."""
        total = _Total(self.pairs, with_gradient)
        parts = []
        for begin, end in self.panels:
            tiles = self._tiles(begin, end)
            parts.append(self.pairs.new_empty(2, tiles[0] * tiles[1]))
            weights = self._weights(begin, end, None, None, bias, parts[-1])
            if with_gradient:
                total.add(begin, end, weights)
        losses, slopes = parts[0] if len(parts) == 1 else _joined(parts, bias)
        return losses, total.grad_rows, total.grad_columns, slopes

    def _weights(
        self,
        begin: int,
        end: int,
        row_lse: Tensor | None,
        column_lse: Tensor | None,
        bias: Tensor | None = None,
        parts: Tensor | None = None,
    ) -> Tensor:
        pairs, unused = self.pairs, self.pairs.scale
        dots = self._dots(begin, end)
        # Over the dots where they are of a size. The interpreter would not round, but cut off.
        same = dots.dtype == pairs.rows.dtype or not dots.is_cuda
        weights = dots if same else torch.empty_like(dots, dtype=pairs.rows.dtype)
        self.kept = None  # the weights may lie over them
        losses, slopes = (unused, unused) if parts is None else parts
        _panel_weights_kernel[self._tiles(begin, end)](
            dots, weights, pairs.scale, unused if bias is None else bias, pairs.stored_targets,
            unused if row_lse is None else row_lse, unused if column_lse is None else column_lse,
            losses, slopes, begin, end, begin if pairs.symmetric else 0, len(pairs.columns),
            -pairs.self_offset, pairs.target_offset,
            HAS_TARGETS=pairs.positives_stored, HAS_SELF=pairs.self_offset >= 0,
            USE_ROWS=row_lse is not None, USE_COLUMNS=column_lse is not None,
            SIGMOID=bias is not None, BLOCK_R=BLOCK_ROWS, BLOCK_C=BLOCK_COLUMNS, num_warps=8,
        )  # fmt: skip
        return weights

    def _tiles(self, begin: int, end: int) -> tuple[int, int]:
        first = begin if self.pairs.symmetric else 0
        width = len(self.pairs.columns) - first
        return -(-(end - begin) // BLOCK_ROWS), -(-width // BLOCK_COLUMNS)

    def _dots(self, begin: int, end: int) -> Tensor:
        if self.kept is not None:
            return self.kept
        first = begin if self.pairs.symmetric else 0
        dots = product(self.pairs.rows[begin:end], self.pairs.columns[first:].T)
        if len(self.panels) == 1:
            self.kept = dots
        return dots


def _joined(parts: list[Tensor], bias: Tensor) -> Tensor:
    """Of panels, one behind the other; 0 of none."""
    return torch.cat(parts, dim=1) if parts else bias.new_zeros(2, 1)
