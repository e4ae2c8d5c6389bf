"""The losses of CLIP and SigLIP: images and texts find each other.

Sources: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(2021); Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (2023).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import distributed
from ..._dispatch import formed_in_forward, register
from ...distributed import Group, Share
from . import reference, small
from .arguments import check_features, check_pairs, empty_outputs, operands, scalar, wants_gradient
from .pairs import similarity_gradients, similarity_logsumexp


def clip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    *,
    logit_bias: Tensor | float | None = None,
    group: Group = None,
    uneven: bool = False,
) -> Tensor:
    """The mean of two cross entropies: of images finding their texts, and texts their images.

    Both come from one pass over the similarities, of which no matrix is stored.

    Args:
        image, text: [N, D], normalised by the caller, row i of one belonging to row i of the other;
            float16, bfloat16, float32 or float64, any strides.
        logit_scale: multiplies the similarities: the exponential of CLIP's parameter, a number or a
            tensor of one element.
        logit_bias: added to every logit, which changes no softmax: the loss does not depend on it,
            and its gradient is 0.
        group: a process group: loss and gradients are those of the global batch, as in `nt_xent`.
        uneven: whether processes may have different N.

    Returns:
        The loss, a float32 scalar (float64 for float64), not negative; 0 for one pair.
        Differentiable once, to image, text, logit_scale and logit_bias.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: for another shape, device or value, or no rows.
    """
    check_features(image=image, text=text)
    distributed.check_group(group)
    check_pairs(group, image=image, text=text)
    scale = scalar("logit_scale", logit_scale, image)
    image, text = operands(image, text)
    if group is None and small.is_small("clip_loss", image, text):
        loss = small.clip_loss(image, text, scale)
    elif group is None:
        loss = _clip_loss(image, text, scale, wants_gradient(image, text, scale))[0]
    else:
        share = distributed.share_of(image.shape[0], group, uneven, image.device)
        texts = distributed.gather_rows(text, share)
        loss = _SharedClip.apply(image, texts, scale, share, wants_gradient(image, texts, scale))
    return loss if logit_bias is None else loss + 0 * scalar("logit_bias", logit_bias, image)


def siglip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    group: Group = None,
    uneven: bool = False,
) -> Tensor:
    """Every pair of an image and a text is one decision: whether they belong together.

    The sum over all pairs of -log sigmoid(+-(logit_scale * image . text + logit_bias)), divided by
    the number of images. One pass over the similarities, of which no matrix is stored.

    Args:
        image, text: [N, D], normalised by the caller, row i of one belonging to row i of the other;
            float16, bfloat16, float32 or float64, any strides.
        logit_scale, logit_bias: numbers or tensors of one element; the scale exponentiated.
        group: a process group: loss and gradients are those of the global batch, as in `nt_xent`.
        uneven: whether processes may have different N.

    Returns:
        The loss, a float32 scalar (float64 for float64). Differentiable once, to all four.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: for another shape, device or value, or no rows.
    """
    check_features(image=image, text=text)
    distributed.check_group(group)
    check_pairs(group, image=image, text=text)
    scale = scalar("logit_scale", logit_scale, image)
    bias = scalar("logit_bias", logit_bias, image)
    image, text = operands(image, text)
    offset, factor = 0, 1.0
    if group is not None:
        share = distributed.share_of(image.shape[0], group, uneven, image.device)
        text = distributed.gather_rows(text, share)
        offset, factor = share.offset, share.factor
    elif small.is_small("siglip_loss", image, text):
        return small.siglip_loss(image, text, scale, bias, offset)
    with_gradient = wants_gradient(image, text, scale, bias)
    loss: Tensor = _siglip_loss(image, text, scale, bias, offset, with_gradient)[0]
    return loss if group is None else loss * factor


class _SharedClip(torch.autograd.Function):
    """This process's images against the texts of all.

    Sums over images are those of all processes: logarithms of their parts are exchanged, 4 bytes a
    text. The texts' gradients are parts as well, which the gather's backward sums.
    """

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, texts: Tensor, scale: Tensor, share: Share, with_gradient: bool
    ) -> Tensor:
        targets = torch.arange(share.count, device=image.device) + share.offset
        row_lse, part, positive = similarity_logsumexp(image, texts, targets, scale, -1, True)
        column_lse = distributed.all_logsumexp(part, share.group)
        own = column_lse[share.offset : share.offset + share.count]
        factor = share.world_size / (2 * share.total)
        if with_gradient:
            gradients = similarity_gradients(
                image, texts, targets, scale, row_lse, column_lse, -1, True
            )
            ctx.save_for_backward(*(gradient * factor for gradient in gradients))
            ctx.dtype = image.dtype
        return (row_lse + own - 2 * positive).sum() * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_image, grad_texts, grad_scale = ctx.saved_tensors
        features = ((grad * gradient).to(ctx.dtype) for gradient in (grad_image, grad_texts))
        return (*features, grad * grad_scale, None, None)


def _fake(image: Tensor, text: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return empty_outputs(image, (image.shape, text.shape, ()), rest[-1])


def _fake_siglip(image: Tensor, text: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return empty_outputs(image, (image.shape, text.shape, (), ()), rest[-1])


_clip_loss = register(
    "clip_loss(Tensor image, Tensor text, Tensor scale, bool with_gradient) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    reference=reference.clip_loss,
    fake=_fake,
    triton=True,
    **formed_in_forward((0, 1, 2)),
)
_siglip_loss = register(
    "siglip_loss(Tensor image, Tensor text, Tensor scale, Tensor bias, SymInt offset, "
    "bool with_gradient) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.siglip_loss,
    fake=_fake_siglip,
    triton=True,
    **formed_in_forward((0, 1, 2, 3)),
)
