"""The contrastive losses in plain torch, with the whole matrix of similarities: the specification.

Logits are scale * (a . b). Each loss comes with its gradients in closed form, where asked; else
they have no elements. P is the softmax of a row (over a column: of a column), Y is 1 at positives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Outputs = tuple[Tensor, ...]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What losses and gradients are computed and returned in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def dots(rows: Tensor, columns: Tensor) -> Tensor:
    """Inner products of all pairs, as torch multiplies features of this type."""
    return product(rows, columns.T)


def product(weights: Tensor, features: Tensor) -> Tensor:
    """weights @ features, as torch multiplies features of this type; autocast is over by now."""
    with torch.autocast(features.device.type, enabled=False):
        return (weights.to(features.dtype) @ features).to(compute_dtype(features.dtype))


def without_gradients(loss: Tensor, count: int) -> Outputs:
    """The loss, and no elements for each of `count` gradients."""
    return (loss, *(loss.new_empty(0) for _ in range(count)))


def nt_xent(z: Tensor, scale: Tensor, with_gradient: bool) -> Outputs:
    """Loss of z [M, D], gradients of z and scale. Row i's positive is row i + M / 2, modulo M."""
    count = z.shape[0]
    places = torch.arange(count, device=z.device)
    partners = places.roll(-(count // 2))
    similarity = dots(z, z)
    logits = (scale * similarity).masked_fill(places[:, None] == places, -torch.inf)
    lse = logits.logsumexp(dim=1)
    loss = (lse - logits[places, partners]).sum() / count
    if not with_gradient:
        return without_gradients(loss, 2)
    with torch.no_grad():
        softmax = (logits - lse[:, None]).exp()
        weights = softmax + softmax.T
        weights[places, partners] -= 2
        grad_scale = (weights * similarity).sum() / (2 * count)
        return loss, scale * product(weights, z) / count, grad_scale


def info_nce(
    query: Tensor,
    keys: Tensor,
    targets: Tensor,
    scale: Tensor,
    with_gradient: bool,
    with_keys: bool,
) -> Outputs:
    """Loss of query [N, D] against keys [M, D], gradients of query, keys (if asked) and scale."""
    count = max(query.shape[0], 1)  # no queries: a loss of 0
    similarity = dots(query, keys)
    logits = scale * similarity
    lse = logits.logsumexp(dim=1)
    loss = (lse - logits.gather(1, targets[:, None])[:, 0]).sum() / count
    if not with_gradient:
        return without_gradients(loss, 3)
    with torch.no_grad():
        weights = (logits - lse[:, None]).exp()
        weights.scatter_add_(1, targets[:, None], weights.new_full((query.shape[0], 1), -1.0))
        weights /= count
        grad_query = scale * product(weights, keys)
        grad_keys = scale * product(weights.T, query) if with_keys else loss.new_empty(0)
        return loss, grad_query, grad_keys, (weights * similarity).sum()


def info_nce_queue(
    query: Tensor, positive: Tensor, queue: Tensor, scale: Tensor, with_gradient: bool
) -> Outputs:
    """Loss of query [N, D] with positive [N, D] against queue [K, D]; gradients but the queue's."""
    count = max(query.shape[0], 1)
    wide = compute_dtype(query.dtype)
    matched = (query.to(wide) * positive.to(wide)).sum(dim=1, keepdim=True)
    similarity = torch.cat([matched, dots(query, queue.detach())], dim=1)
    logits = scale * similarity
    lse = logits.logsumexp(dim=1)
    loss = (lse - logits[:, 0]).sum() / count
    if not with_gradient:
        return without_gradients(loss, 3)
    with torch.no_grad():
        weights = (logits - lse[:, None]).exp()
        weights[:, 0] -= 1
        own = weights[:, :1]
        grad_query = own * positive.to(wide) + product(weights[:, 1:], queue)
        grad_positive = own * query.to(wide)
        grad_scale = (weights * similarity).sum() / count
        return loss, scale * grad_query / count, scale * grad_positive / count, grad_scale


def clip_loss(image: Tensor, text: Tensor, scale: Tensor, with_gradient: bool) -> Outputs:
    """Mean of both directions' losses of image and text [N, D]; gradients of these and scale."""
    count = image.shape[0]
    similarity = dots(image, text)
    logits = scale * similarity
    row_lse, column_lse = logits.logsumexp(dim=1), logits.logsumexp(dim=0)
    positive = logits.diagonal()
    loss = ((row_lse - positive).mean() + (column_lse - positive).mean()) / 2
    if not with_gradient:
        return without_gradients(loss, 3)
    with torch.no_grad():
        weights = _both_softmaxes(logits, row_lse, column_lse)
        weights.diagonal().sub_(2)
        weights /= 2 * count
        grad_image = scale * product(weights, text)
        grad_text = scale * product(weights.T, image)
        return loss, grad_image, grad_text, (weights * similarity).sum()


def siglip_loss(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, offset: int, with_gradient: bool
) -> Outputs:
    """Sigmoid loss of image [R, D] and text [C, D], and the gradients of the four.

    The positive of image i is text i + offset. The sum over all pairs is divided by R.
    """
    count = max(image.shape[0], 1)
    matched = torch.arange(image.shape[0], device=image.device)[:, None] + offset
    positive = matched == torch.arange(text.shape[0], device=image.device)
    signs = torch.where(positive, 1.0, -1.0).to(compute_dtype(image.dtype))
    similarity = dots(image, text)
    margins = signs * (scale * similarity + bias)
    loss = -F.logsigmoid(margins).sum() / count
    if not with_gradient:
        return without_gradients(loss, 4)
    with torch.no_grad():
        weights = -signs * torch.sigmoid(-margins) / count
        grad_image = scale * product(weights, text)
        grad_text = scale * product(weights.T, image)
        return loss, grad_image, grad_text, (weights * similarity).sum(), weights.sum()


def similarity_logsumexp(
    rows: Tensor,
    columns: Tensor,
    targets: Tensor,
    scale: Tensor,
    self_offset: int,
    over_columns: bool,
) -> Outputs:
    """Log-sum-exp of the logits of rows [R, D] against columns [C, D].

    Args:
        targets: [R], the column of each row's positive.
        self_offset: leaves out the logit of row i and column i + self_offset; -1 to leave out none.
        over_columns: whether sums over each column are wanted too.

    Returns:
        [R] over rows, [C] over columns (or [0]), [R] the positives' logits.
    """
    logits = _masked(scale * dots(rows, columns), self_offset)
    column_lse = logits.logsumexp(dim=0) if over_columns else logits.new_empty(0)
    return logits.logsumexp(dim=1), column_lse, logits.gather(1, targets[:, None])[:, 0]


def similarity_gradients(
    rows: Tensor,
    columns: Tensor,
    targets: Tensor,
    scale: Tensor,
    row_lse: Tensor,
    column_lse: Tensor,
    self_offset: int,
    with_columns: bool,
) -> Outputs:
    """Gradients of sum_i (row_lse_i - positive_i) + sum_j (column_lse_j - positive of j).

    Both sums run over the logits of all processes, of which `rows` are this one's.

    Args:
        row_lse, column_lse: [R] and [C], over all logits of a row and of a column.
        with_columns: whether the columns' gradient is wanted.

    Returns:
        [R, D], [C, D] (or [0]) and a scalar: of rows, columns and scale.
    """
    similarity = dots(rows, columns)
    logits = _masked(scale * similarity, self_offset)
    weights = _both_softmaxes(logits, row_lse, column_lse)
    weights.scatter_add_(1, targets[:, None], weights.new_full((rows.shape[0], 1), -2.0))
    grad_rows = scale * product(weights, columns)
    grad_columns = scale * product(weights.T, rows) if with_columns else weights.new_empty(0)
    return grad_rows, grad_columns, (weights * similarity).sum()


def _both_softmaxes(logits: Tensor, row_lse: Tensor, column_lse: Tensor) -> Tensor:
    return (logits - row_lse[:, None]).exp() + (logits - column_lse).exp()


def _masked(logits: Tensor, self_offset: int) -> Tensor:
    if self_offset < 0:
        return logits
    own = torch.arange(logits.shape[0], device=logits.device)[:, None] + self_offset
    return logits.masked_fill(
        own == torch.arange(logits.shape[1], device=logits.device), -torch.inf
    )
