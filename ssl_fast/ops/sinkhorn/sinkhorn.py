"""Sinkhorn's balanced assignment of samples to prototypes.

Sources: Cuturi, "Sinkhorn Distances" (2013); Caron et al., "Unsupervised Learning of Visual
Features by Contrasting Cluster Assignments" (SwAV, 2020); as in DINOv2's teacher.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from ... import distributed
from ..._dispatch import register
from ...distributed import Group
from . import reference

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def sinkhorn(
    scores: Tensor,
    epsilon: Tensor | float,
    iterations: int = 3,
    *,
    group: Group = None,
    uneven: bool = False,
) -> Tensor:
    """Assigns samples to prototypes so that all prototypes get equal shares.

    Each iteration scales the columns of exp(scores / epsilon) to equal sums, then its rows to sum
    1. Scalings are vectors: the matrix is read once an iteration and once more, and only the
    result is written. No epsilon and no scores make it overflow: it stands for what exact
    arithmetic gives.

    Args:
        scores: [N, K], of N samples and K prototypes; float16, bfloat16, float32 or float64, any
            strides, finite.
        epsilon: positive; the smaller, the harder the assignment. A number or a tensor of one
            element.
        iterations: 1 or more. (Upstream, 0 returns exp(scores / epsilon) over its mean row sum,
            which assigns nothing.)
        group: a process group: the result is that of one process with the samples of all. Sums of
            columns are exchanged, K numbers an iteration, and their maxima once.
        uneven: whether processes may have different N, 0 as well. Nothing else depends on it.

    Returns:
        [N, K], float32 (float64 for float64); rows sum to 1. A target: it has no gradient.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: for another shape, device or value, or no samples.
    """
    _check_scores(scores, group is not None and uneven)
    distributed.check_group(group)
    if not isinstance(iterations, int) or isinstance(iterations, bool):
        raise TypeError(f"iterations is a {type(iterations).__name__}; expected an int")
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; expected 1 or more")
    scores, epsilon = scores.detach(), _epsilon(epsilon, scores)
    if distributed.world_size(group) == 1:
        assigned: Tensor = _sinkhorn(scores, epsilon, iterations)
        return assigned
    return _shared(scores, epsilon, iterations, group)


def _shared(scores: Tensor, epsilon: Tensor, iterations: int, group: Group) -> Tensor:
    """With the sums of columns of all processes."""
    own_maxima, own_sums = _sinkhorn_columns(scores, epsilon)
    maxima = distributed.all_reduce(own_maxima, "max", group)
    own_sums = own_sums * ((own_maxima - maxima) / epsilon).exp()
    sums = distributed.all_reduce(own_sums, "sum", group)
    for _ in range(iterations - 1):
        own_sums = _sinkhorn_sweep(scores, epsilon, maxima, sums)
        sums = distributed.all_reduce(own_sums, "sum", group)
    assigned: Tensor = _sinkhorn_assign(scores, epsilon, maxima, sums)
    return assigned


def _check_scores(scores: Any, may_be_empty: bool) -> None:
    if not isinstance(scores, Tensor):
        raise TypeError(f"scores is a {type(scores).__name__}; expected a tensor [N, K]")
    if scores.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"scores is {scores.dtype}; accepted are {names}")
    if scores.dim() != 2 or scores.shape[1] == 0:
        raise ValueError(f"scores has shape {tuple(scores.shape)}; expected [N, K], K > 0")
    if scores.shape[0] == 0 and not may_be_empty:
        raise ValueError(
            "scores has no samples; expected some (a process of a group may have none with uneven)"
        )


def _epsilon(epsilon: Any, scores: Tensor) -> Tensor:
    """`epsilon` as a tensor of one element beside the scores."""
    dtype = reference.compute_dtype(scores.dtype)
    if isinstance(epsilon, Tensor):
        if not epsilon.is_floating_point():
            raise TypeError(f"epsilon is {epsilon.dtype}; expected a floating-point tensor")
        if epsilon.numel() != 1:
            raise ValueError(f"epsilon has shape {tuple(epsilon.shape)}; expected one element")
        return epsilon.detach().reshape(()).to(device=scores.device, dtype=dtype)
    if not isinstance(epsilon, numbers.Real) or isinstance(epsilon, bool):
        raise TypeError(f"epsilon is a {type(epsilon).__name__}; expected a number or a tensor")
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}; expected a positive, finite number")
    return torch.full((), float(epsilon), dtype=dtype, device=scores.device)


def _fake_columns(scores: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _fake_sweep(scores), _fake_sweep(scores)


def _fake_sweep(scores: Tensor, *rest: Any) -> Tensor:
    return scores.new_empty((scores.shape[1],), dtype=reference.compute_dtype(scores.dtype))


def _fake_assign(scores: Tensor, *rest: Any) -> Tensor:
    return scores.new_empty(tuple(scores.shape), dtype=reference.compute_dtype(scores.dtype))


_sinkhorn = register(
    "sinkhorn(Tensor scores, Tensor epsilon, int iterations) -> Tensor",
    reference=reference.sinkhorn,
    fake=_fake_assign,
    triton=True,
)
# The same in steps, for sums that other processes have a part in.
_sinkhorn_columns = register(
    "sinkhorn_columns(Tensor scores, Tensor epsilon) -> (Tensor, Tensor)",
    reference=reference.sinkhorn_columns,
    fake=_fake_columns,
    triton=True,
)
_sinkhorn_sweep = register(
    "sinkhorn_sweep(Tensor scores, Tensor epsilon, Tensor maxima, Tensor sums) -> Tensor",
    reference=reference.sinkhorn_sweep,
    fake=_fake_sweep,
    triton=True,
)
_sinkhorn_assign = register(
    "sinkhorn_assign(Tensor scores, Tensor epsilon, Tensor maxima, Tensor sums) -> Tensor",
    reference=reference.sinkhorn_assign,
    fake=_fake_assign,
    triton=True,
)
