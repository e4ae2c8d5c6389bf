"""The Barlow Twins loss as a module, with the signature of lightly's `BarlowTwinsLoss`."""

from __future__ import annotations

import numbers
from typing import Any

from torch import Tensor, nn

from .. import distributed, ops


class BarlowTwinsLoss(nn.Module):
    """Features of two views agree, and are otherwise uncorrelated.

    Each view is normalised by its own statistics, as in the paper.

    Args:
        lambda_param: weight of the correlations between features, 0 or more.
        gather_distributed: whether the batch is that of all processes, where there are several;
            gradients are those of the global batch then. Their batches are of one size.

    Raises:
        TypeError: for an argument of another type.
        ValueError: for a negative weight.
    """

    def __init__(self, lambda_param: float = 5e-3, gather_distributed: bool = False) -> None:
        super().__init__()
        weight: Any = lambda_param
        if not isinstance(weight, numbers.Real) or isinstance(weight, bool):
            raise TypeError(f"lambda_param is {weight!r}; expected a number")
        if not float(weight) >= 0:
            raise ValueError(f"lambda_param is {weight}; expected 0 or more")
        self.lambda_param = float(lambda_param)
        self.gather_distributed = gather_distributed

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            z_a, z_b: [N, D], the views' embeddings, not normalised.

        Returns:
            A scalar, float32 (float64 for float64).

        Raises:
            TypeError, ValueError: as `ops.barlow_twins_loss`.
        """
        group = distributed.default_group() if self.gather_distributed else None
        return ops.barlow_twins_loss(z_a, z_b, self.lambda_param, group=group)

    def extra_repr(self) -> str:
        """The arguments, for `print`."""
        return f"lambda_param={self.lambda_param}, gather_distributed={self.gather_distributed}"
