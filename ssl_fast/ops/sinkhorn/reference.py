"""Sinkhorn's assignments in plain torch: the specification.

The matrix exp(scores / epsilon) is scaled until its columns have equal sums and its rows sum 1. Any
scaling of rows and columns beforehand gives the same result; here each column is divided by its
largest entry, then each row, so that every row and every column has a 1. Nothing overflows, and no
sum is 0, however small epsilon is and however far the scores are apart. (Shifting rows alone, by
each sample's maximum, can leave columns whose every entry is 0.)
"""

from __future__ import annotations

import torch
from torch import Tensor

# Least scaling of a column relative to the largest. Reached only where samples and prototypes so
# contradict the equal shares that no iteration would meet them; it keeps 0 / 0 away.
LEAST_WEIGHT = 1e-30


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums and assignments are computed and returned in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def weights_of(sums: Tensor) -> Tensor:
    """The scaling that gives columns of these sums equal ones; the largest is 1."""
    return (sums.amin() / sums).clamp(min=LEAST_WEIGHT)


def entries(scores: Tensor, epsilon: Tensor, maxima: Tensor) -> Tensor:
    """exp(scores / epsilon), each column and then each row divided by its largest."""
    x = scores.to(maxima.dtype) - maxima
    return ((x - x.amax(dim=1, keepdim=True)) / epsilon).exp()


def sinkhorn_columns(scores: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """The largest score of each column (-inf without samples); sums of what is divided by it."""
    x = scores.to(compute_dtype(scores.dtype))
    if x.shape[0] == 0:
        return x.new_full((x.shape[1],), -torch.inf), x.new_zeros(x.shape[1])
    maxima = x.amax(dim=0)
    return maxima, ((x - maxima) / epsilon).exp().sum(dim=0)


def sinkhorn_sweep(scores: Tensor, epsilon: Tensor, maxima: Tensor, sums: Tensor) -> Tensor:
    """Columns of these sums to equal ones, rows to sum 1; the new sums of the columns.

    They are sums of the entries times the rows' scalings alone: the columns' do not add up from
    iteration to iteration.
    """
    e = entries(scores, epsilon, maxima)
    return (e / (e * weights_of(sums)).sum(dim=1, keepdim=True)).sum(dim=0)


def sinkhorn_assign(scores: Tensor, epsilon: Tensor, maxima: Tensor, sums: Tensor) -> Tensor:
    """Columns of these sums to equal ones, then rows to sum 1: the assignments."""
    e = entries(scores, epsilon, maxima) * weights_of(sums)
    return e / e.sum(dim=1, keepdim=True)


def sinkhorn(scores: Tensor, epsilon: Tensor, iterations: int) -> Tensor:
    """Assignments [N, K] of samples to prototypes."""
    maxima, sums = sinkhorn_columns(scores, epsilon)
    for _ in range(iterations - 1):
        sums = sinkhorn_sweep(scores, epsilon, maxima, sums)
    return sinkhorn_assign(scores, epsilon, maxima, sums)
