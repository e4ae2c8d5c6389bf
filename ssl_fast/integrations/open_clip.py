"""open_clip's losses made faster: by import, or in open_clip itself.

    from ssl_fast.integrations.open_clip import ClipLoss, SigLipLoss  # needs no open_clip

    from ssl_fast.integrations import open_clip                       # or in open_clip itself
    open_clip.enable()
    with open_clip.disable():
        ...

The classes take what those of open_clip 3.x and 4.x take. Over several processes their gradients
are those of the global batch, whatever the options say. With `enable()` they are open_clip's: by
default those of the features are 1 / world_size of that, those of the scale are not.
`enable(correct=True)` gives the right ones. Checked against open_clip 3.0 and 3.3; functions that
other versions changed are left alone.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from .. import distributed, ops
from .._compat import import_torchvision
from ..nn import ClipLoss, SigLipLoss
from .modules import are_features, cross_entropy_dtype, inherits, sum_dtype
from .patching import Patches, Restore

__all__ = ["ClipLoss", "SigLipLoss", "disable", "enable", "report"]

patches = Patches(
    "open_clip", distributions=("open_clip_torch",), install="pip install open_clip_torch"
)
disable = patches.disable
report = patches.report

# Pairs of a process from which on ours are ahead. SigLIP has no softmax over them to share.
WORTHWHILE_CLIP, WORTHWHILE_SIGLIP = 16**2, 1024**2


def enable(*, correct: bool = False, quiet: bool = False) -> Restore:
    """Replaces the functions of open_clip that are known; see `Patches.enable`."""
    with contextlib.suppress(ImportError):  # open_clip's import fails where this does
        import_torchvision()
    return patches.enable(correct=correct, quiet=quiet)


@patches.replaces(
    "open_clip.loss:ClipLoss.forward",
    "fcaeed230afb",
    gain="no matrix of similarities is stored; over processes each forms its own rows alone",
    relies_on={
        "open_clip.loss:ClipLoss.get_logits": ("6c9a17d519be",),
        "open_clip.loss:ClipLoss.get_ground_truth": ("2d679a63ea49",),
        "open_clip.loss:gather_features": ("2637bbbca41d",),
    },
)
def clip_loss(
    original: Any,
    self: Any,
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Any,
    logit_bias: Any = None,
    output_dict: bool = False,
) -> Any:
    """`ops.clip_loss`, with what open_clip's options make of gradients and of the value."""
    from open_clip.loss import ClipLoss as Theirs

    image, text = image_features, text_features
    # Terms of the gradient are left out then, and not only a factor.
    partial = self.local_loss and not self.gather_with_grad and not patches.correct
    if not (
        are_features(image, text)
        and image.shape == text.shape
        and _pairs(self, image) >= WORTHWHILE_CLIP
        and _is_scalar(logit_scale)
        and (logit_bias is None or _is_scalar(logit_bias))
        and inherits(self, Theirs, "get_logits", "get_ground_truth")
        and _is_usual(self)
        and (self.world_size == 1 or not partial)
    ):
        return original(self, image, text, logit_scale, logit_bias, output_dict)
    dtype = cross_entropy_dtype(image)
    group = distributed.default_group() if self.world_size > 1 else None
    if group is not None and not self.gather_with_grad and not patches.correct:
        image, text = (_Part.apply(x, self.world_size) for x in (image, text))
    loss = ops.clip_loss(image, text, logit_scale, logit_bias=logit_bias, group=group)
    if group is not None and not self.local_loss:
        # Each process returns the global loss; it is its own part that has the gradient.
        total = distributed.all_reduce(loss, "sum", group) / self.world_size
        loss = loss + (total - loss.detach())
    loss = loss.to(dtype)
    return {"contrastive_loss": loss} if output_dict else loss


class _Part(torch.autograd.Function):
    """x itself, its gradient divided by `count`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int) -> Tensor:
        ctx.count = count
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad / ctx.count, None


@patches.replaces(
    "open_clip.loss:SigLipLoss.forward",
    "8e16c2112955",
    gain="no matrix of similarities is stored, from batches of 1,024 on",
    relies_on={
        "open_clip.loss:SigLipLoss._loss": ("c139d32f8eae",),
        "open_clip.loss:SigLipLoss.get_logits": ("ae5ea6c11ab5",),
        "open_clip.loss:SigLipLoss.get_ground_truth": ("aadc4fc0d718",),
        "open_clip.loss:neighbour_exchange": ("5500d6646b4b",),
        "open_clip.loss:NeighbourExchange": ("596936b47db3",),
    },
)
def siglip_loss(
    original: Any,
    self: Any,
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Any,
    logit_bias: Any,
    output_dict: bool = False,
) -> Any:
    """`ops.siglip_loss`: all ways to send texts around give one result."""
    from open_clip.loss import SigLipLoss as Theirs

    image, text = image_features, text_features
    if not (
        are_features(image, text)
        and image.shape == text.shape
        and _pairs(self, image) >= WORTHWHILE_SIGLIP
        and _is_scalar(logit_scale)
        and (logit_bias is None or _is_scalar(logit_bias))
        and inherits(self, Theirs, "_loss", "get_logits", "get_ground_truth")
        and _is_usual(self)
    ):
        return original(self, image, text, logit_scale, logit_bias, output_dict)
    group = distributed.default_group() if self.world_size > 1 else None
    bias = 0.0 if logit_bias is None else logit_bias
    loss = ops.siglip_loss(image, text, logit_scale, bias, group=group)
    # Signs are of the features' type, what they are multiplied with of autocast's.
    loss = loss.to(torch.promote_types(image.dtype, sum_dtype(image)))
    return {"contrastive_loss": loss} if output_dict else loss


def _pairs(loss: Any, image: Tensor) -> int:
    return len(image) ** 2 * loss.world_size


def _is_usual(loss: Any) -> bool:
    """Whether it is for one process, or for all of torch's default group, in their order."""
    if loss.world_size == 1:
        return True
    group = distributed.default_group()
    return (
        not getattr(loss, "use_horovod", False)
        and distributed.world_size(group) == loss.world_size
        and torch.distributed.get_rank() == loss.rank
    )


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and value.is_floating_point()
    return isinstance(value, int | float)
