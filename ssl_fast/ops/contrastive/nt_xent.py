"""NT-Xent, the loss of SimCLR: two views of each sample find each other among all others.

Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import distributed
from ..._dispatch import formed_in_forward, register
from ...distributed import Group, Share
from . import reference, small
from .arguments import (
    check_compat,
    check_features,
    check_pairs,
    empty_outputs,
    normalized,
    operands,
    scale_of_temperature,
    wants_gradient,
)
from .pairs import similarity_gradients, similarity_logsumexp


def nt_xent(
    z0: Tensor,
    z1: Tensor,
    temperature: Tensor | float = 0.1,
    *,
    normalize: bool = True,
    group: Group = None,
    uneven: bool = False,
    compat: str | None = None,
) -> Tensor:
    """The normalised-temperature cross entropy of two views.

    Each of the 2N embeddings is to find its other view among the 2N - 1 others. No matrix of
    similarities is stored: the extra memory is O(N * D) and a workspace of at most 400 MB.

    Args:
        z0, z1: [N, D], the views' embeddings, row by row of the same sample; float16, bfloat16,
            float32 or float64, any strides. Products are taken in their type, or autocast's;
            everything else in float32.
        temperature: divides the cosine similarities: a positive number, or a tensor of one element,
            which gets a gradient if it asks for one.
        normalize: whether embeddings are divided by their norms (by 1e-12 at least) first.
        group: a torch.distributed process group, over which the loss is that of the global batch:
            negatives come from all processes. The mean over processes of what is returned is the
            global loss, and gradients, once averaged over processes as DistributedDataParallel
            does, are those of one process with the whole batch.
        uneven: whether processes may have different N.
        compat: "mmpretrain" for mmpretrain's SimCLR: norms get 1e-10 added, every process returns
            the global loss, and gradients after averaging are 1 / processes of the right ones.

    Returns:
        The loss, a float32 scalar (float64 for float64), not negative; 0 for one sample.
        Differentiable once.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: for another shape, device or value, or no rows.
    """
    check_features(z0=z0, z1=z1)
    distributed.check_group(group)
    check_pairs(group, z0=z0, z1=z1)
    check_compat(compat)
    scale = scale_of_temperature(temperature, z0)
    z = torch.cat(operands(z0, z1)) if not normalize else _normalized_views(z0, z1, compat)
    if group is None and small.is_small("nt_xent", z, z):
        return small.nt_xent(z, scale)
    with_gradient = wants_gradient(z, scale)
    if group is None:
        loss: Tensor = _nt_xent(z, scale, with_gradient)[0]
        return loss
    share = distributed.share_of(z0.shape[0], group, uneven, z0.device).times(2)
    shared: Tensor = _SharedNTXent.apply(z, scale, share, with_gradient, compat)
    return shared


def _normalized_views(z0: Tensor, z1: Tensor, compat: str | None) -> Tensor:
    return normalized(torch.cat([z0, z1]), compat).to(operands(z0, z1)[0].dtype)


class _SharedNTXent(torch.autograd.Function):
    """This process's rows against those of all.

    S is symmetric, and so each process forms the whole gradient of its own rows: of other rows'
    sums it needs nothing but their logarithms, 4 bytes a row.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        scale: Tensor,
        share: Share,
        with_gradient: bool,
        compat: str | None,
    ) -> Tensor:
        columns = distributed.gather_rows(z.detach(), share)
        half = share.count // 2
        places = torch.arange(share.count, device=z.device)
        targets = places.roll(-half) + share.offset
        row_lse, _, positive = similarity_logsumexp(z, columns, targets, scale, share.offset, False)
        column_lse = distributed.gather_rows(row_lse, share)
        loss = (row_lse - positive).sum() / share.total
        part = 1.0 if compat else float(share.world_size)
        if compat:
            loss = distributed.all_reduce(loss, "sum", share.group)
        if with_gradient:
            grad_z, _, grad_scale = similarity_gradients(
                z, columns, targets, scale, row_lse, column_lse, share.offset, False
            )
            # Of the rows' sums and the columns' sums, which over all processes are the same.
            grad_scale = grad_scale / 2
            if compat:
                grad_scale = distributed.all_reduce(grad_scale, "sum", share.group)
            factor = part / share.total
            ctx.save_for_backward(grad_z * factor, grad_scale * factor)
            ctx.dtype = z.dtype
        return loss * part

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_z, grad_scale = ctx.saved_tensors
        return (grad * grad_z).to(ctx.dtype), grad * grad_scale, None, None, None


def _fake(z: Tensor, scale: Tensor, with_gradient: bool) -> tuple[Tensor, ...]:
    return empty_outputs(z, (z.shape, ()), with_gradient)


_nt_xent = register(
    "nt_xent(Tensor z, Tensor scale, bool with_gradient) -> (Tensor, Tensor, Tensor)",
    reference=reference.nt_xent,
    fake=_fake,
    triton=True,
    **formed_in_forward((0, 1)),
)
