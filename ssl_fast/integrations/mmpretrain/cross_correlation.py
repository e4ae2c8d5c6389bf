"""Barlow Twins without copies of the cross-correlation matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...distributed import default_group, world_size
from ..modules import has_hooks
from ._patches import patches
from .heads import gathers_on


@patches.replaces(
    "mmpretrain.models.heads.latent_heads:LatentCrossCorrelationHead.loss",
    "72e4288ed27e",
    gain="few or no matrices of features by features",
    relies_on={
        "mmpretrain.models.losses.cross_correlation_loss:CrossCorrelationLoss.forward": (
            "30b191b372c7",
        ),
        "mmpretrain.models.losses.cross_correlation_loss:CrossCorrelationLoss.off_diagonal": (
            "b3c84821d946",
        ),
    },
)
def cross_correlation_loss(original: Any, self: Any, input: Tensor, target: Tensor) -> Any:
    """In training; evaluation takes running statistics, and is upstream's."""
    if not _served(self, input, target):
        return original(self, input, target)
    # Its running statistics and its count of batches move on by its own rules.
    with torch.no_grad():
        self.bn(input)
        self.bn(target)
    loss = ops.barlow_twins_loss(
        input,
        target,
        self.loss_module.lambd,
        eps=self.bn.eps,
        group=default_group(),
        uneven=patches.correct,
        compat=None if patches.correct else "mmpretrain",
    )
    return loss.to(_result_dtype(input))


def _served(head: Any, input: Tensor, target: Tensor) -> bool:
    from mmpretrain.models.losses.cross_correlation_loss import CrossCorrelationLoss

    return (
        type(head.loss_module) is CrossCorrelationLoss
        and not has_hooks(head.loss_module)
        and type(head.bn) is nn.BatchNorm1d
        and not head.bn.affine
        and (head.bn.training or head.bn.running_mean is None)
        and input.dim() == 2
        and input.shape == target.shape
        and len(input) > 1
        and head.world_size == world_size(default_group())
        and gathers_on(input.device)
    )


def _result_dtype(features: Tensor) -> torch.dtype:
    """Of upstream's loss: its last step is a sum, which autocast takes in float32 on a GPU."""
    device = features.device.type
    if features.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return features.dtype
    return torch.float32 if features.is_cuda else torch.get_autocast_dtype(device)
