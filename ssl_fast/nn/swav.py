"""SwAV's loss as a module, with the signature of lightly's `SwaVLoss`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import distributed, ops


class SwAVLoss(nn.Module):
    """Each view predicts the prototypes that the other views are assigned to.

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments" (2020). Assignments come from `ops.sinkhorn`.

    Args:
        temperature: divides the scores that predict.
        sinkhorn_iterations, sinkhorn_epsilon: of the assignments.
        sinkhorn_gather_distributed: whether samples of all processes are assigned together, where
            there are several.

    Raises:
        ValueError: for a temperature or epsilon that is not positive, or iterations below 1.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        sinkhorn_iterations: int = 3,
        sinkhorn_epsilon: float = 0.05,
        sinkhorn_gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (
            ("temperature", temperature),
            ("sinkhorn_epsilon", sinkhorn_epsilon),
            ("sinkhorn_iterations", sinkhorn_iterations),
        ):
            if not value > 0:
                raise ValueError(f"{name} is {value}; expected more than 0")
        self.temperature = temperature
        self.sinkhorn_iterations = sinkhorn_iterations
        self.sinkhorn_epsilon = sinkhorn_epsilon
        self.sinkhorn_gather_distributed = sinkhorn_gather_distributed

    def forward(
        self,
        high_resolution_outputs: Sequence[Tensor],
        low_resolution_outputs: Sequence[Tensor],
        queue_outputs: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            high_resolution_outputs: for each large crop the scores [N, K] of N samples and K
                prototypes. These crops are assigned; they have no gradient as targets.
            low_resolution_outputs: the same for each small crop, which predict only.
            queue_outputs: for each large crop scores [M, K] of earlier samples, assigned with it.

        Returns:
            The cross entropy of assignments and predictions: the mean over samples, over all pairs
            of a large crop and another crop. A scalar, float32 (float64 for float64).

        Raises:
            ValueError: for fewer than one large crop, fewer than two crops, other shapes, or as
                many queues as there are large crops.
        """
        high, low = list(high_resolution_outputs), list(low_resolution_outputs)
        _check(high, low, queue_outputs)
        queues: Sequence[Tensor | None] = queue_outputs or [None] * len(high)
        # float32 under autocast too; each crop's softmax once, whoever it predicts.
        predictions = [
            F.log_softmax(x.to(_wide(x)) / self.temperature, dim=1) for x in (*high, *low)
        ]
        losses = []
        for i, (scores, queue) in enumerate(zip(high, queues, strict=True)):
            assigned = self._assign(scores, queue)
            losses += [
                -(assigned * prediction).sum() / len(scores)
                for j, prediction in enumerate(predictions)
                if j != i
            ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _assign(self, scores: Tensor, queue: Tensor | None) -> Tensor:
        group = distributed.default_group() if self.sinkhorn_gather_distributed else None
        together = scores if queue is None else torch.cat([scores, queue.to(scores.dtype)])
        options: dict[str, Any] = {"iterations": self.sinkhorn_iterations, "group": group}
        return ops.sinkhorn(together, self.sinkhorn_epsilon, **options)[: len(scores)]

    def extra_repr(self) -> str:
        """The arguments, for `print`."""
        return (
            f"temperature={self.temperature}, sinkhorn_iterations={self.sinkhorn_iterations}, "
            f"sinkhorn_epsilon={self.sinkhorn_epsilon}, "
            f"sinkhorn_gather_distributed={self.sinkhorn_gather_distributed}"
        )


SwaVLoss = SwAVLoss  # as lightly spells it


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _check(high: list[Tensor], low: list[Tensor], queues: Sequence[Tensor] | None) -> None:
    if not high or len(high) + len(low) < 2:
        raise ValueError(
            f"there are {len(high)} high- and {len(low)} low-resolution crops; expected one of "
            f"high resolution and another crop at least"
        )
    for crop in (*high, *low):
        if crop.dim() != 2 or crop.shape != high[0].shape or crop.shape[0] == 0:
            shapes = [tuple(crop.shape) for crop in (*high, *low)]
            raise ValueError(
                f"outputs have the shapes {shapes}; expected one [N, K], N > 0, of all"
            )
    if queues is not None and len(queues) != len(high):
        raise ValueError(
            f"there are {len(queues)} queue_outputs; expected one for each of the {len(high)} "
            f"high-resolution crops"
        )
