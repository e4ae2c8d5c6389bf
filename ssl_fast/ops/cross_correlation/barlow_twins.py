"""The Barlow Twins loss: features of two views agree, and are otherwise uncorrelated.

Source: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction" (2021); as
in mmpretrain's LatentCrossCorrelationHead.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from ... import distributed
from ..._dispatch import formed_in_forward, register
from ...distributed import Group, Share
from ..contrastive.arguments import (
    check_compat,
    check_features,
    check_pairs,
    empty_outputs,
    operands,
    scalar,
    wants_gradient,
)
from . import reference


def barlow_twins_loss(
    z0: Tensor,
    z1: Tensor,
    lambda_: Tensor | float = 0.0051,
    *,
    eps: float = 1e-5,
    group: Group = None,
    uneven: bool = False,
    compat: str | None = None,
) -> Tensor:
    """The sum of (C_ii - 1)^2 and of lambda C_ij^2, i != j, C the cross-correlation of two views.

    Each column of either view is normalised over the batch, as batch norm does: its mean is
    subtracted, it is divided by sqrt(variance + eps), the variance being the biased one. C is
    h0^T h1 / N of what results, D x D; no such matrix is stored beyond a part of 128 MB at a time.
    With 2 N <= D matrices of rows, N x N, stand in for it, which takes fewer operations:
    8 N^2 D for loss and gradients instead of 6 N D^2.

    Args:
        z0, z1: [N, D], row i of one belonging to row i of the other; float16, bfloat16, float32 or
            float64, any strides. Products of float16 and bfloat16 (or under their autocast) are of
            h rounded to that, which is computed in float32 before.
        lambda_: weight of the elements off the diagonal; a number or a tensor of one element,
            which gets no gradient.
        eps: added to the variances.
        group: a process group: statistics, C, loss and gradients are those of the batch of all
            processes, each of which returns that loss; the gradients, once averaged over
            processes (as DistributedDataParallel does), are its. The rows are gathered, and each
            process multiplies its own with those of all.
        uneven: whether processes may have different N.
        compat: "mmpretrain" for what it does with a group: statistics are each process's own, C is
            the mean over processes, the gradients are 1 / world_size of the above.

    Returns:
        The loss, a float32 scalar (float64 for float64). Differentiable once, to z0 and z1.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: for another shape, device or value, or no rows.
    """
    check_features(z0=z0, z1=z1)
    distributed.check_group(group)
    check_pairs(group, z0=z0, z1=z1)
    check_compat(compat)
    if not isinstance(eps, numbers.Real) or isinstance(eps, bool):
        raise TypeError(f"eps is a {type(eps).__name__}; expected a number")
    if not 0 <= float(eps) < math.inf:
        raise ValueError(f"eps is {eps}; expected 0 or a positive, finite number")
    weight = scalar("lambda_", lambda_, z0).detach()
    with_gradient = wants_gradient(z0, z1)
    z0, z1 = operands(z0, z1)
    if distributed.world_size(group) == 1:
        loss: Tensor = _barlow_twins_loss(z0, z1, weight, float(eps), with_gradient)[0]
        return loss
    if compat == "mmpretrain":
        alike: Tensor = _AsMMPretrain.apply(z0, z1, weight, float(eps), group, with_gradient)
        return alike
    share = distributed.share_of(z0.shape[0], group, uneven, z0.device)
    shared: Tensor = _Shared.apply(z0, z1, weight, float(eps), share, with_gradient)
    return shared


class _Shared(torch.autograd.Function):
    """This process's rows with those of all.

    What the gradient of the normalisation takes, two numbers a column, is summed over processes;
    the loss comes from the same numbers.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z0: Tensor,
        z1: Tensor,
        weight: Tensor,
        eps: float,
        share: Share,
        with_gradient: bool,
    ) -> Tensor:
        rows = distributed.gather_rows(torch.cat([z0, z1], dim=1).detach(), share)
        all0, all1 = rows.chunk(2, dim=1)
        end = share.offset + share.count
        slope0, slope1, squares, diagonal, statistics = _cross_correlation_rows(
            all0, all1, eps, share.offset, end, with_gradient
        )
        squares = distributed.all_reduce(squares, "sum", share.group)
        loss, grad0, grad1 = _barlow_twins_gradients(
            z0, z1, slope0, slope1, squares, diagonal, statistics, weight, share.total
        )
        if with_gradient:
            # Averaged over processes afterwards, it is to be the gradient of the one loss.
            ctx.save_for_backward(grad0 * share.world_size, grad1 * share.world_size)
            ctx.dtypes = z0.dtype, z1.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _scaled(ctx, grad)


class _AsMMPretrain(torch.autograd.Function):
    """Statistics of this process's rows; C averaged as if the other processes' part were constant.

    One D x D matrix is kept, which is C and then the gradient's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z0: Tensor,
        z1: Tensor,
        weight: Tensor,
        eps: float,
        group: Group,
        with_gradient: bool,
    ) -> Tensor:
        (h0, first), (h1, second) = (reference.standardise(z, eps) for z in (z0, z1))
        part = 1 / (z0.shape[0] * distributed.world_size(group))
        own = reference.product(h0.T, h1, z0.dtype).mul_(part)
        matrix = distributed.all_reduce(own, "sum", group)
        del own
        errors = matrix.diagonal() - 1
        matrix.diagonal().zero_()
        squares = torch.linalg.vector_norm(matrix, dim=1).square()
        loss = errors.square().sum() + weight * squares.sum()
        if with_gradient:
            matrix.mul_(weight).diagonal().copy_(errors)
            slopes = (
                reference.product(h1, matrix.T, z0.dtype),
                reference.product(h0, matrix, z0.dtype),
            )
            grads = (
                _through_standardise(slope.mul_(2 * part), h, statistics[2])
                for slope, h, statistics in zip(slopes, (h0, h1), (first, second), strict=True)
            )
            ctx.save_for_backward(*grads)
            ctx.dtypes = z0.dtype, z1.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _scaled(ctx, grad)


def _through_standardise(slope: Tensor, h: Tensor, inverse: Tensor) -> Tensor:
    """A gradient by h as one by z."""
    shrink = (slope * h).mean(dim=0)
    return inverse * (slope - slope.mean(dim=0) - h * shrink)


def _scaled(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """What both ways saved, times the gradient of the loss."""
    grad0, grad1 = (
        (gradient * grad).to(dtype)
        for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
    )
    return grad0, grad1, None, None, None, None


def _fake_rows(
    z0: Tensor, z1: Tensor, eps: float, begin: int, end: int, with_gradient: bool
) -> tuple[Tensor, ...]:
    size = z0.shape[1]
    slopes = (end - begin, size) if with_gradient else (0,)
    squares = (2, size) if with_gradient else (1,)
    dtype = reference.compute_dtype(z0.dtype)
    shapes: tuple[tuple[int, ...], ...] = (slopes, slopes, squares, (size,), (6, size))
    return tuple(z0.new_empty(shape, dtype=dtype) for shape in shapes)


def _fake_gradients(z0: Tensor, z1: Tensor, slope0: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return empty_outputs(z0, (slope0.shape, slope0.shape), True)


def _fake(z0: Tensor, z1: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return empty_outputs(z0, (z0.shape, z1.shape), rest[-1])


_cross_correlation_rows = register(
    "cross_correlation_rows(Tensor z0, Tensor z1, float eps, SymInt begin, SymInt end, "
    "bool with_gradient) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.cross_correlation_rows,
    fake=_fake_rows,
    triton=True,
)
_barlow_twins_gradients = register(
    "barlow_twins_gradients(Tensor z0, Tensor z1, Tensor slope0, Tensor slope1, Tensor squares, "
    "Tensor diagonal, Tensor statistics, Tensor lambda_, SymInt total) -> (Tensor, Tensor, Tensor)",
    reference=reference.barlow_twins_gradients,
    fake=_fake_gradients,
    triton=True,
)
_barlow_twins_loss = register(
    "barlow_twins_loss(Tensor z0, Tensor z1, Tensor lambda_, float eps, bool with_gradient) "
    "-> (Tensor, Tensor, Tensor)",
    reference=reference.barlow_twins_loss,
    fake=_fake,
    triton=True,
    **formed_in_forward((0, 1)),
)
