"""The losses put together from three primitives, which the ways of the GPU provide."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .reference import compute_dtype, without_gradients
from .triton_results import queue_gradients, scale_gradients, totals
from .triton_rows import positive_logits

Sums = tuple[Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor]
Outputs = tuple[Tensor, ...]
NOWHERE = -(1 << 31)  # any row of fewer than 2^31 and this is below 0


@dataclass(frozen=True)
class Pairs:
    """Rows against columns.

    Attributes:
        rows, columns: [R, D] and [C, D]; rows of D contiguous numbers, columns of any strides.
        positives: [R] int64, the column of each row's positive, -1 for none; or an offset of at
            least 0: that of row i is column i + offset, counted on from 0 at the end of columns;
            or None, where no row has one.
        scale: [], multiplies the inner products.
        self_offset: leaves out row i with column i + self_offset; -1 to leave out none.
        symmetric: rows and columns are the same: half of the products are enough, and all sums
            and gradients are those of rows.
    """

    rows: Tensor
    columns: Tensor
    positives: Tensor | int | None
    scale: Tensor
    self_offset: int = -1
    symmetric: bool = False

    @property
    def positives_stored(self) -> bool:
        """Whether a kernel is to read positives; else it counts on by `target_offset`."""
        return isinstance(self.positives, Tensor)

    @property
    def stored_targets(self) -> Tensor:
        """The tensor of positives, or one that is not to be read."""
        return self.positives if isinstance(self.positives, Tensor) else self.scale

    @property
    def target_offset(self) -> int:
        """The offset of positives; where there is none, one that leads to no column."""
        return self.positives if isinstance(self.positives, int) else NOWHERE

    @property
    def targets(self) -> Tensor:
        """Positives [R] int64 however they are given."""
        if isinstance(self.positives, Tensor):
            return self.positives
        places = torch.arange(len(self.rows), device=self.rows.device)
        if self.positives is None:
            return torch.full_like(places, -1)
        return (places + self.positives) % max(len(self.columns), 1)

    def new_empty(self, *shape: int) -> Tensor:
        """Beside the rows, of the type that is computed in."""
        return self.rows.new_empty(shape, dtype=compute_dtype(self.rows.dtype))


class Way(Protocol):
    """A way to go through the similarities of one `Pairs` without storing them all: softmaxes."""

    def sums(self, over_columns: bool) -> Sums:
        """Log-sum-exp over rows [R] and (if wanted, else [0]) columns [C], positives' logits [R].

        Of a symmetric matrix, a positive at least for the rows before their target.
        """

    def gradients(
        self, row_lse: Tensor | None, column_lse: Tensor | None, with_columns: bool
    ) -> Gradients:
        """W columns [R, D] and (if wanted, else [0]) W^T rows [C, D].

        W is the softmax over rows less 1 at positives where row_lse is given, plus the same over
        columns where column_lse is. Of a symmetric matrix the first alone. The caller may write
        over them.
        """


class SigmoidWay(Protocol):
    """The same of SigLIP."""

    def sigmoid(self, bias: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Parts of the sum of SigLIP's losses; their derivatives by the logits times columns,
        transposed times rows, and parts of their sum.
        """


# Of pairs, and of how many times a way that keeps nothing forms their similarities.
MakeWay = Callable[[Pairs, int], Way]


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, in float32 at least, whatever the operands' type."""
    wide = compute_dtype(a.dtype)
    if a.dtype == wide:
        return torch.mm(a, b)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=wide)
    return torch.mm(a.to(wide), b.to(wide))


def product_into(total: Tensor, a: Tensor, b: Tensor, add: bool) -> None:
    """total = a @ b, or total += a @ b, in the type of total."""
    if a.dtype == total.dtype or not a.is_cuda:
        total.addmm_(a.to(total.dtype), b.to(total.dtype), beta=int(add))
    elif not add:
        torch.mm(a, b, out_dtype=total.dtype, out=total)
    elif _accumulates(a.dtype, a.device):
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += product(a, b)


@functools.lru_cache
def _accumulates(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this torch adds products of half types to a matrix of float32; not all do."""
    operand = torch.zeros(16, 16, dtype=dtype, device=device)
    total = torch.zeros(16, 16, device=device)
    try:
        torch.addmm(total, operand, operand, out_dtype=total.dtype, out=total)
    except (RuntimeError, TypeError):
        return False
    return True


def nt_xent(make: MakeWay, z: Tensor, scale: Tensor, with_gradient: bool) -> Outputs:
    """As `reference.nt_xent`."""
    count = len(z)
    way = make(Pairs(z, z, count // 2, scale, 0, symmetric=True), 2)
    lse, _, positive = way.sums(False)
    half = count // 2
    if not with_gradient:
        loss, *_ = totals(lse, positive=positive, positives=half, loss_count=count)
        return without_gradients(loss, 2)
    grad, none = way.gradients(lse, lse, False)
    parts = scale_gradients(grad, none, z, scale, count)
    loss, grad_scale, _ = totals(
        lse, None, positive, parts, positives=half, loss_count=count, scale_count=2 * count
    )
    return loss, grad, grad_scale


def info_nce(
    make: MakeWay,
    query: Tensor,
    keys: Tensor,
    targets: Tensor,
    scale: Tensor,
    with_gradient: bool,
    with_keys: bool,
) -> Outputs:
    """As `reference.info_nce`."""
    count = max(len(query), 1)
    way = make(Pairs(query, keys, targets, scale), 2 + with_keys)
    lse, _, positive = way.sums(False)
    if not with_gradient:
        return without_gradients(totals(lse, None, positive, loss_count=count)[0], 3)
    grad_query, grad_keys = way.gradients(lse, None, with_keys)
    parts = scale_gradients(grad_query, grad_keys, query, scale, count)
    loss, grad_scale, _ = totals(lse, None, positive, parts, loss_count=count, scale_count=count)
    return loss, grad_query, grad_keys, grad_scale


def info_nce_queue(
    make: MakeWay,
    query: Tensor,
    positive: Tensor,
    queue: Tensor,
    scale: Tensor,
    with_gradient: bool,
) -> Outputs:
    """As `reference.info_nce_queue`: no positive is in the queue; each is a column of its own."""
    count = max(len(query), 1)
    matched = positive_logits(Pairs(query, positive, 0, scale))
    way = make(Pairs(query, queue, None, scale), 2)
    others, _, _ = way.sums(False)
    lse = torch.logaddexp(matched, others)
    if not with_gradient:
        return without_gradients(totals(lse, None, matched, loss_count=count)[0], 3)
    grad_query, _ = way.gradients(lse, None, False)
    grad_positive, parts = queue_gradients(grad_query, query, positive, matched, lse, scale, count)
    loss, grad_scale, _ = totals(lse, None, matched, parts, loss_count=count, scale_count=count)
    return loss, grad_query, grad_positive, grad_scale


def clip_loss(
    make: MakeWay, image: Tensor, text: Tensor, scale: Tensor, with_gradient: bool
) -> Outputs:
    """As `reference.clip_loss`."""
    count = 2 * len(image)
    way = make(Pairs(image, text, 0, scale), 4)
    row_lse, column_lse, positive = way.sums(True)
    if not with_gradient:
        loss, *_ = totals(row_lse, column_lse, positive, times=2, loss_count=count)
        return without_gradients(loss, 3)
    grad_image, grad_text = way.gradients(row_lse, column_lse, True)
    parts = scale_gradients(grad_image, grad_text, image, scale, count)
    loss, grad_scale, _ = totals(
        row_lse, column_lse, positive, parts, times=2, loss_count=count, scale_count=count
    )
    return loss, grad_image, grad_text, grad_scale


def siglip_loss(
    make: Callable[[Pairs], SigmoidWay],
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    offset: int,
    with_gradient: bool,
) -> Outputs:
    """As `reference.siglip_loss`."""
    count = max(len(image), 1)
    way = make(Pairs(image, text, offset, scale))
    losses, grad_image, grad_text, slopes = way.sigmoid(bias, with_gradient)
    if not with_gradient:
        return without_gradients(totals(losses, loss_count=count)[0], 4)
    parts = scale_gradients(grad_image, grad_text, image, scale, count)
    loss, grad_scale, grad_bias = totals(
        losses, None, None, parts, slopes, loss_count=count, scale_count=count
    )
    return loss, grad_image, grad_text, grad_scale, grad_bias


def similarity_logsumexp(
    make: MakeWay,
    rows: Tensor,
    columns: Tensor,
    targets: Tensor,
    scale: Tensor,
    self_offset: int,
    over_columns: bool,
) -> Outputs:
    """As `reference.similarity_logsumexp`."""
    way = make(Pairs(rows, columns, targets, scale, self_offset), 2 + 2 * over_columns)
    return way.sums(over_columns)


def similarity_gradients(
    make: MakeWay,
    rows: Tensor,
    columns: Tensor,
    targets: Tensor,
    scale: Tensor,
    row_lse: Tensor,
    column_lse: Tensor,
    self_offset: int,
    with_columns: bool,
) -> Outputs:
    """As `reference.similarity_gradients`."""
    way = make(Pairs(rows, columns, targets, scale, self_offset), 2 + with_columns)
    grad_rows, grad_columns = way.gradients(row_lse, column_lse, with_columns)
    parts = scale_gradients(grad_rows, grad_columns, rows, scale, 1)
    return grad_rows, grad_columns, parts.sum()
