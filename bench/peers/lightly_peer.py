"""lightly's losses and masks for the benchmark. An ImportError here means: not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssl_fast._compat.torchvision import import_torchvision

import_torchvision()
from lightly.loss import BarlowTwinsLoss, NTXentLoss  # noqa: E402
from lightly.loss.swav_loss import sinkhorn as swav_sinkhorn  # noqa: E402
from lightly.models.utils import random_block_mask, random_token_mask  # noqa: E402

Function = Callable[..., Any]


def nt_xent(temperature: float) -> Function:
    """Two views [N, D] to the loss."""
    return NTXentLoss(temperature)


def barlow_twins_loss(weight: float) -> Function:
    """Two views [N, D] to the loss."""
    return BarlowTwinsLoss(weight)


def sinkhorn(epsilon: float, iterations: int) -> Function:
    """Scores [N, K] to assignments, in float32, as under autocast."""
    return lambda scores: swav_sinkhorn(scores.float(), iterations, epsilon)


def random_ids(batch: int, length: int, ratio: float, device: str) -> Function:
    """Nothing to (ids_keep, ids_restore, mask): lightly gives kept and masked, the rest is ours."""

    def ids() -> tuple[Tensor, ...]:
        kept, masked = random_token_mask((batch, length), ratio, True, device)
        restore = torch.cat([kept, masked], dim=1).argsort(dim=1)
        mask = torch.zeros(batch, length, device=device).scatter_(1, masked, 1.0)
        return kept, restore, mask

    return ids


def ibot_masks(batch: int, grid: tuple[int, int], device: str) -> Function:
    """Nothing to [batch, *grid] bool, by DINOv2's rule."""
    return lambda: random_block_mask((batch, *grid), device=device)
