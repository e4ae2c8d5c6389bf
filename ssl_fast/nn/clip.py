"""The losses of CLIP and SigLIP as modules, with the signatures of open_clip's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .. import distributed, ops


class ClipLoss(nn.Module):
    """CLIP's loss; constructor and call are those of open_clip's class of this name.

    Where open_clip's options choose which terms of the gradient are formed, here all are: gradients
    are those of the global batch whatever the options, at no more than `local_loss` costs.

    Args:
        local_loss, gather_with_grad, cache_labels: taken and not needed.
        rank, world_size: where this process stands. With a world_size over 1 the loss is over the
            default process group, which must be of that size.
        use_horovod: False.

    Raises:
        ValueError: for use_horovod, or a rank outside of 0 .. world_size - 1.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__()
        if use_horovod:
            raise ValueError("use_horovod is True; torch.distributed is what is supported")
        _check_rank(rank, world_size)
        self.local_loss = local_loss
        self.gather_with_grad = gather_with_grad
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.use_horovod = use_horovod

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Any:
        """The loss of a batch.

        Args:
            image_features, text_features: [N, D], normalised.
            logit_scale: the exponential of the model's parameter.
            logit_bias: added to every logit; changes nothing.
            output_dict: whether to return {"contrastive_loss": loss}.

        Returns:
            A float32 scalar, or a dict with it.

        Raises:
            TypeError, ValueError: as `ops.clip_loss`.
        """
        loss = ops.clip_loss(
            image_features,
            text_features,
            logit_scale,
            logit_bias=logit_bias,
            group=_group(self.world_size),
        )
        return {"contrastive_loss": loss} if output_dict else loss


class SigLipLoss(nn.Module):
    """SigLIP's loss; constructor and call are those of open_clip's class of this name.

    Args:
        cache_labels: taken and not needed.
        rank, world_size: as in `ClipLoss`.
        dist_impl: how open_clip sends texts around: "bidir", "shift", "reduce", "gather" or None.
            The result is the same; texts are gathered here.
        chunk_size: taken and not needed: no matrix of logits is stored.

    Raises:
        ValueError: for another dist_impl, or a rank outside of 0 .. world_size - 1.
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        chunk_size: int = 0,
    ) -> None:
        super().__init__()
        if dist_impl not in (None, "bidir", "shift", "reduce", "gather"):
            raise ValueError(
                f"dist_impl is {dist_impl!r}; accepted are 'bidir', 'shift', 'reduce', 'gather', "
                f"None"
            )
        _check_rank(rank, world_size)
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.dist_impl = dist_impl
        self.chunk_size = chunk_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None,
        output_dict: bool = False,
    ) -> Any:
        """The loss of a batch; arguments and result as `ClipLoss`, the bias counts.

        Raises:
            TypeError, ValueError: as `ops.siglip_loss`.
        """
        bias = 0.0 if logit_bias is None else logit_bias
        group = _group(self.world_size)
        loss = ops.siglip_loss(image_features, text_features, logit_scale, bias, group=group)
        return {"contrastive_loss": loss} if output_dict else loss


def _check_rank(rank: int, world_size: int) -> None:
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank} of world_size {world_size}; expected 0 to world_size - 1")


def _group(world_size: int) -> distributed.Group:
    """The default group, or None for one process."""
    if world_size == 1:
        return None
    group = distributed.default_group()
    if distributed.world_size(group) != world_size:
        raise ValueError(
            f"world_size is {world_size}, but torch.distributed has "
            f"{distributed.world_size(group)} processes"
        )
    return group
