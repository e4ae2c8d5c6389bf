"""lightly's losses under its names, which need no lightly."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ... import nn

BarlowTwinsLoss = nn.BarlowTwinsLoss


class NTXentLoss(nn.NTXentLoss):
    """`nn.NTXentLoss`, its memory bank outside of the state dict, as lightly's."""

    persistent_bank = False


class SwaVLoss(nn.SwaVLoss):
    """`nn.SwaVLoss`, its result [1], as lightly's."""

    def forward(
        self,
        high_resolution_outputs: Sequence[Tensor],
        low_resolution_outputs: Sequence[Tensor],
        queue_outputs: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """As `nn.SwaVLoss`; [1]."""
        loss = super().forward(high_resolution_outputs, low_resolution_outputs, queue_outputs)
        return loss.reshape(1)
