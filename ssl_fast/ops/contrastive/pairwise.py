"""The losses put together from three primitives, which the ways of the GPU provide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .reference import compute_dtype, without_gradients

Sums = tuple[Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor]
Outputs = tuple[Tensor, ...]
NOWHERE = -(1 << 31)  # any row of fewer than 2^31 and this is below 0


@dataclass(frozen=True)
class Pairs:
    """Rows against columns.

    Attributes:
        rows, columns: [R, D] and [C, D], rows of D contiguous numbers.
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
    """A way to go through the similarities of one `Pairs` without storing them all."""

    def sums(self, over_columns: bool) -> Sums:
        """Log-sum-exp over rows [R] and (if wanted, else [0]) columns [C], positives' logits [R].

        Of a symmetric matrix, a positive at least for the rows before their target.
        """

    def gradients(
        self, row_lse: Tensor | None, column_lse: Tensor | None, with_columns: bool
    ) -> Gradients:
        """W columns [R, D] and (if wanted, else [0]) W^T rows [C, D].

        W is the softmax over rows less 1 at positives where row_lse is given, plus the same over
        columns where column_lse is. Of a symmetric matrix the first alone.
        """

    def sigmoid(self, bias: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sum of SigLIP's losses; their derivatives by the logits times columns, transposed times
        rows, and summed.
        """


MakeWay = Callable[[Pairs], Way]


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, in float32 at least, whatever the operands' type."""
    wide = compute_dtype(a.dtype)
    if a.dtype == wide:
        return torch.mm(a, b)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=wide)
    return torch.mm(a.to(wide), b.to(wide))


def nt_xent(make: MakeWay, z: Tensor, scale: Tensor, with_gradient: bool) -> Outputs:
    """As `reference.nt_xent`."""
    count = z.shape[0]
    way = make(Pairs(z, z, count // 2, scale, 0, symmetric=True))
    lse, _, positive = way.sums(False)
    positive = positive[: count // 2].repeat(2)
    loss = (lse - positive).sum() / count
    if not with_gradient:
        return without_gradients(loss, 2)
    grad, _ = way.gradients(lse, lse, False)
    return loss, grad * (scale / count), (grad * z).sum() / (2 * count)


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
    count = max(query.shape[0], 1)
    way = make(Pairs(query, keys, targets, scale))
    lse, _, positive = way.sums(False)
    loss = (lse - positive).sum() / count
    if not with_gradient:
        return without_gradients(loss, 3)
    grad_query, grad_keys = way.gradients(lse, None, with_keys)
    factor = scale / count
    return loss, grad_query * factor, grad_keys * factor, (grad_query * query).sum() / count


def info_nce_queue(
    make: MakeWay,
    query: Tensor,
    positive: Tensor,
    queue: Tensor,
    scale: Tensor,
    with_gradient: bool,
) -> Outputs:
    """As `reference.info_nce_queue`: no positive is in the queue; each is a column of its own."""
    count = max(query.shape[0], 1)
    wide = compute_dtype(query.dtype)
    q, p = query.to(wide), positive.to(wide)
    matched = scale * (q * p).sum(dim=1)
    way = make(Pairs(query, queue, None, scale))
    others, _, _ = way.sums(False)
    lse = torch.logaddexp(matched, others)
    loss = (lse - matched).sum() / count
    if not with_gradient:
        return without_gradients(loss, 3)
    own = (matched - lse).exp()[:, None] - 1
    grad_query = way.gradients(lse, None, False)[0] + own * p
    grad_scale = (grad_query * q).sum() / count
    factor = scale / count
    return loss, grad_query * factor, own * q * factor, grad_scale


def clip_loss(
    make: MakeWay, image: Tensor, text: Tensor, scale: Tensor, with_gradient: bool
) -> Outputs:
    """As `reference.clip_loss`."""
    count = image.shape[0]
    way = make(Pairs(image, text, 0, scale))
    row_lse, column_lse, positive = way.sums(True)
    loss = (row_lse + column_lse - 2 * positive).sum() / (2 * count)
    if not with_gradient:
        return without_gradients(loss, 3)
    grad_image, grad_text = way.gradients(row_lse, column_lse, True)
    factor = scale / (2 * count)
    grad_scale = (grad_image * image).sum() / (2 * count)
    return loss, grad_image * factor, grad_text * factor, grad_scale


def siglip_loss(
    make: MakeWay,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    offset: int,
    with_gradient: bool,
) -> Outputs:
    """As `reference.siglip_loss`."""
    count = max(image.shape[0], 1)
    way = make(Pairs(image, text, offset, scale))
    losses, grad_image, grad_text, slopes = way.sigmoid(bias, with_gradient)
    if not with_gradient:
        return without_gradients(losses / count, 4)
    grad_scale = (grad_image * image).sum() / count
    factor = scale / count
    return losses / count, grad_image * factor, grad_text * factor, grad_scale, slopes / count


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
    return make(Pairs(rows, columns, targets, scale, self_offset)).sums(over_columns)


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
    way = make(Pairs(rows, columns, targets, scale, self_offset))
    grad_rows, grad_columns = way.gradients(row_lse, column_lse, with_columns)
    return grad_rows * scale, grad_columns * scale, (grad_rows * rows).sum()
