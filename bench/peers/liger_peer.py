"""Liger's fused loss for the benchmark; Triton. An ImportError here means: not installed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss
from torch import Tensor


def info_nce(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """(query [N, D], keys [M, D]) to the loss, where key i is query i's: keys as the weight."""
    fused = LigerFusedLinearCrossEntropyLoss()

    def loss(query: Tensor, keys: Tensor) -> Tensor:
        targets = torch.arange(len(query), device=query.device)
        return fused(keys, query / temperature, targets)

    return loss
