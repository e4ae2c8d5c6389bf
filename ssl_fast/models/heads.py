"""Heads and losses of multi-view methods, named as in mmpretrain's configs."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..distributed import default_group
from .registry import MODELS


@MODELS.register
class ContrastiveHead(nn.Module):
    """What a contrastive method needs beside its embeddings.

    Args:
        temperature: divides the similarities.

    Raises:
        ValueError: for a temperature that is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected over 0")
        self.temperature = temperature


@MODELS.register
class CosineSimilarityLoss(nn.Module):
    """shift_factor - scale_factor * the cosine of embeddings and their targets, on average.

    Args:
        shift_factor, scale_factor: numbers.
    """

    def __init__(self, shift_factor: float = 0.0, scale_factor: float = 1.0) -> None:
        super().__init__()
        self.shift_factor = shift_factor
        self.scale_factor = scale_factor

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """A scalar in float32, of [N, D] each."""
        cosine = (F.normalize(pred.float(), dim=1) * F.normalize(target.float(), dim=1)).sum(dim=1)
        return self.shift_factor - self.scale_factor * cosine.mean()


@MODELS.register
class LatentPredictHead(nn.Module):
    """A predictor from one view's embedding to the other's, which gets no gradient.

    Args:
        predictor: a config dict or a module from embeddings to embeddings.
        loss: a config dict or a module called with (prediction, target).
    """

    def __init__(
        self, predictor: dict[str, Any] | nn.Module, loss: dict[str, Any] | nn.Module
    ) -> None:
        super().__init__()
        self.predictor = MODELS.build(predictor)
        self.loss_module = MODELS.build(loss)

    def loss(self, input: Tensor, target: Tensor) -> Tensor:
        """A scalar, of embeddings [N, D] of two views."""
        return self.loss_module(self.predictor(input), target.detach())


@MODELS.register
class LatentCrossCorrelationHead(nn.Module):
    """The cross-correlation of two views' embeddings is to be the identity (Barlow Twins).

    Args:
        lambd: weight of what is off the diagonal.
    """

    def __init__(self, lambd: float = 0.0051) -> None:
        super().__init__()
        self.lambd = lambd

    def loss(self, input: Tensor, target: Tensor) -> Tensor:
        """See `ssl_fast.ops.barlow_twins_loss`; over the batch of all processes."""
        return ops.barlow_twins_loss(input, target, self.lambd, group=default_group())
