"""Necks, heads and losses that several methods share, named as in mmpretrain's configs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .registry import MODELS


@MODELS.register
class LinearNeck(nn.Module):
    """One linear layer from features to predictions.

    Args:
        in_channels, out_channels: of the last dimension.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, out_channels)
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def forward(self, features: Tensor) -> Tensor:
        """[..., in_channels] to [..., out_channels]."""
        return self.fc(features)


@MODELS.register
class PixelReconstructionLoss(nn.Module):
    """Distance of predicted tokens from their targets, a mean over what is masked.

    Args:
        criterion: "L2" (squared) or "L1" (absolute).

    Raises:
        ValueError: for another criterion.
    """

    def __init__(self, criterion: str = "L2") -> None:
        super().__init__()
        if criterion not in ("L1", "L2"):
            raise ValueError(f"criterion is {criterion!r}; accepted are 'L1' and 'L2'")
        self.criterion = criterion

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss, a scalar in float32.

        Args:
            pred, target: [N, L, D].
            mask: [N, L] weights, such as 1 where a patch counts; None if all count. If none does,
                the loss is 0 (upstream: NaN).
        """
        error = pred.float() - target.float()
        error = error.square() if self.criterion == "L2" else error.abs()
        tokens = error.mean(dim=-1)
        if mask is None:
            return tokens.sum() / max(tokens.numel(), 1)
        weights = mask.to(tokens.dtype)
        return (tokens * weights).sum() / weights.sum().clamp(min=1)


@MODELS.register
class MIMHead(nn.Module):
    """Head of masked image modelling: nothing but its loss.

    Args:
        loss: a config dict or a module called with (pred, target, mask).
    """

    def __init__(self, loss: dict[str, Any] | nn.Module) -> None:
        super().__init__()
        self.loss_module = MODELS.build(loss)

    def loss(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """See the loss."""
        return self.loss_module(pred, target, mask)
