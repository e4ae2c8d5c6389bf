"""mmpretrain's contrastive heads, and what their losses are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ...distributed import default_group
from ..modules import has_hooks
from ._patches import patches

# What a loss module does, which is then done by the op.
CROSS_ENTROPY = {
    "mmpretrain.models.losses.cross_entropy_loss:CrossEntropyLoss.forward": ("28d9a26010eb",),
    "mmpretrain.models.losses.cross_entropy_loss:cross_entropy": ("524b358cd8bc",),
    "mmpretrain.models.losses.utils:weight_reduce_loss": ("5f7136e73d17",),
    "mmpretrain.models.losses.utils:reduce_loss": ("9c2c93322111",),
}
CONTRASTIVE_HEAD = {
    "mmpretrain.models.heads.contrastive_head:ContrastiveHead.loss": ("f10bf3dcbff2",),
    **CROSS_ENTROPY,
}
# Up to so many logits upstream's own steps are as fast, as measured.
FEW_LOGITS = 2**16


@patches.replaces(
    "mmpretrain.models.heads.contrastive_head:ContrastiveHead.loss",
    "f10bf3dcbff2",
    gain="two copies of the logits fewer",
    relies_on=CROSS_ENTROPY,
)
def contrastive_loss(original: Any, self: Any, pos: Tensor, neg: Tensor) -> Any:
    """For models of users, which have logits: mmpretrain's own models now make none."""
    served = (
        is_cross_entropy(self)
        and neg.dim() == 2
        and pos.shape[1:] == (1,)
        and neg.numel() > FEW_LOGITS
    )
    if not served:
        return original(self, pos, neg)
    return weighted(self, _FirstIsRight.apply(pos, neg, self.temperature), neg)


class _FirstIsRight(torch.autograd.Function):
    """Cross entropy of [pos, neg] / temperature with class 0, without putting them together."""

    @staticmethod
    def forward(ctx: Any, pos: Tensor, neg: Tensor, temperature: float) -> Tensor:
        wide = torch.float64 if neg.dtype == torch.float64 else torch.float32
        right = pos[:, 0].to(wide) / temperature
        others = neg.to(wide) / temperature
        most = torch.maximum(others.amax(dim=1), right)
        others.sub_(most[:, None]).exp_()
        own = (right - most).exp()
        total = others.sum(dim=1) + own
        ctx.save_for_backward(others, own, total)
        ctx.temperature, ctx.dtypes = temperature, (pos.dtype, neg.dtype)
        return (most + total.log() - right).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        others, own, total = ctx.saved_tensors
        factor = (grad / (total * (len(total) * ctx.temperature)))[:, None]
        grad_pos = (own - total)[:, None] * factor
        grad_neg = (others * factor).to(ctx.dtypes[1]) if ctx.needs_input_grad[1] else None
        return grad_pos.to(ctx.dtypes[0]), grad_neg, None


@patches.replaces(
    "mmpretrain.models.heads.mocov3_head:MoCoV3Head.loss",
    "df1e2262ae6f",
    gain="no matrix of logits",
    relies_on=CROSS_ENTROPY,
)
def mocov3_loss(original: Any, self: Any, base_out: Tensor, momentum_out: Tensor) -> Any:
    """Each process's queries against the keys of all."""
    from mmengine.dist import all_gather, get_rank

    if not is_cross_entropy(self):
        return original(self, base_out, momentum_out)
    query = F.normalize(self.predictor([base_out])[0], dim=1)
    key = torch.cat(all_gather(F.normalize(momentum_out, dim=1)), dim=0)
    rows = len(query)
    targets = torch.arange(rows, device=query.device) + rows * get_rank()
    loss = ops.info_nce(query, key, targets, self.temperature)
    return weighted(self, loss, query)


def is_contrastive(head: Any) -> bool:
    """Whether a head does what mmpretrain's ContrastiveHead does, with a plain cross entropy."""
    from mmpretrain.models.heads import ContrastiveHead

    return is_method(head.loss, ContrastiveHead.loss) and is_cross_entropy(head)


def is_cross_entropy(head: Any) -> bool:
    """Whether a head's loss is the mean cross entropy of logits over a temperature."""
    from mmpretrain.models.losses.cross_entropy_loss import CrossEntropyLoss, cross_entropy

    loss = head.loss_module
    return (
        type(loss) is CrossEntropyLoss
        and loss.cls_criterion is cross_entropy
        and loss.reduction == "mean"
        and loss.class_weight is None
        and not has_hooks(loss)
        and isinstance(head.temperature, int | float)
        and head.temperature > 0
    )


def is_method(bound: Any, function: Any) -> bool:
    """Whether an object's method is this function, and not one of a subclass or of its own."""
    return getattr(bound, "__func__", None) is function


def gathers_on(device: torch.device) -> bool:
    """Whether processes exchange tensors of a device as they are (upstream copies them to one)."""
    from mmengine.dist import get_comm_device

    return default_group() is None or get_comm_device().type == device.type


def weighted(head: Any, loss: Tensor, features: Tensor) -> Tensor:
    """A loss times its module's weight, in the type that cross entropy of the features has."""
    if not torch.is_autocast_enabled(features.device.type):
        loss = loss.to(features.dtype)
    return loss * head.loss_module.loss_weight
