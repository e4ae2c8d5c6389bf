"""The Barlow Twins loss in plain torch, with the whole cross-correlation matrix: the specification.

h = (z - mean) / sqrt(variance + eps), by column, with the biased variance; C = h0^T h1 / N. The loss
is the sum of (C_ii - 1)^2 and of lambda C_ij^2 for i != j.
"""

from __future__ import annotations

import torch
from torch import Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the loss and its gradients are computed and returned in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """What h is rounded to for products. Those of float16 could overflow: they are float32's."""
    return torch.bfloat16 if dtype == torch.bfloat16 else compute_dtype(dtype)


def standardise(z: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """h, the mean of each column and 1 / its deviation."""
    x = z.to(compute_dtype(z.dtype))
    mean = x.mean(dim=0)
    inverse = (x.var(dim=0, unbiased=False) + eps).rsqrt()
    return (x - mean) * inverse, mean, inverse


def off_diagonal(h0: Tensor, h1: Tensor, dtype: torch.dtype) -> Tensor:
    """C without its diagonal, from products of h rounded to `dtype`."""
    with torch.autocast(h0.device.type, enabled=False):
        matrix = (h0.to(dtype).T @ h1.to(dtype)).to(h0.dtype) / h0.shape[0]
    return matrix - torch.diag(matrix.diagonal())


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):
        return (a.to(dtype) @ b.to(dtype)).to(a.dtype)


def cross_correlation_rows(
    z0: Tensor, z1: Tensor, eps: float, begin: int, end: int, with_gradient: bool
) -> tuple[Tensor, ...]:
    """What one process makes of the rows of all.

    Returns:
        The slopes of half the sum of C_ij^2, i != j, in h0 and in h1, of the rows begin to end - 1;
        the sums of C_ij^2 along j and along i, [2, D], this process's part: all parts make the
        whole; the diagonal of C; mean and 1 / deviation of the first view, then of the second,
        [4, D]. Without a gradient the slopes have no elements, and of the sums there is the total
        alone, [1].
    """
    dtype = product_dtype(z0.dtype)
    (h0, *first), (h1, *second) = standardise(z0, eps), standardise(z1, eps)
    statistics = torch.stack([*first, *second])
    matrix = off_diagonal(h0, h1, dtype)
    diagonal = (h0 * h1).mean(dim=0)
    part = (end - begin) / z0.shape[0]
    if not with_gradient:
        total = matrix.square().sum().reshape(1) * part
        return z0.new_empty(0, dtype=h0.dtype), h0.new_empty(0), total, diagonal, statistics
    slope0 = product(h1[begin:end], matrix.T, dtype) / z0.shape[0]
    slope1 = product(h0[begin:end], matrix, dtype) / z0.shape[0]
    squares = [(slope0 * h0[begin:end]).sum(dim=0), (slope1 * h1[begin:end]).sum(dim=0)]
    return slope0, slope1, torch.stack(squares), diagonal, statistics


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
    """The loss of a batch of `total` rows, and its gradients of these rows z0 and z1 [n, D].

    Without slopes (none have elements) the gradients have none.
    """
    loss = (diagonal - 1).square().sum() + lambda_ * squares[0].sum()
    if squares.dim() == 1:
        return loss, loss.new_empty(0), loss.new_empty(0)
    own = 2 * (diagonal - 1) / total
    mean0, inverse0, mean1, inverse1 = statistics
    h0, h1 = (z0 - mean0) * inverse0, (z1 - mean1) * inverse1
    # The mean over the batch of gradient * h; that of the gradient is 0, for h has mean 0.
    shrink0, shrink1 = own * diagonal + 2 * lambda_ * squares / total
    grad0 = inverse0 * (2 * lambda_ * slope0 + own * h1 - shrink0 * h0)
    grad1 = inverse1 * (2 * lambda_ * slope1 + own * h0 - shrink1 * h1)
    return loss, grad0, grad1


def barlow_twins_loss(
    z0: Tensor, z1: Tensor, lambda_: Tensor, eps: float, with_gradient: bool
) -> tuple[Tensor, ...]:
    """The loss; where asked its gradients of z0 and z1, else they have no elements."""
    h0, h1 = standardise(z0, eps)[0], standardise(z1, eps)[0]
    matrix = off_diagonal(h0, h1, product_dtype(z0.dtype))
    diagonal = (h0 * h1).mean(dim=0)
    loss = (diagonal - 1).square().sum() + lambda_ * matrix.square().sum()
    if not with_gradient:
        return loss, loss.new_empty(0), loss.new_empty(0)
    with torch.no_grad():
        parts = cross_correlation_rows(z0, z1, eps, 0, z0.shape[0], True)
        _, grad0, grad1 = barlow_twins_gradients(z0, z1, *parts, lambda_, z0.shape[0])
        return loss, grad0, grad1
