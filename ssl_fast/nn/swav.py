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
        group = distributed.default_group() if self.sinkhorn_gather_distributed else None
        return swav_loss(
            high_resolution_outputs,
            low_resolution_outputs,
            queue_outputs,
            temperature=self.temperature,
            epsilon=self.sinkhorn_epsilon,
            iterations=self.sinkhorn_iterations,
            group=group,
        )

    def extra_repr(self) -> str:
        """The arguments, for `print`."""
        return (
            f"temperature={self.temperature}, sinkhorn_iterations={self.sinkhorn_iterations}, "
            f"sinkhorn_epsilon={self.sinkhorn_epsilon}, "
            f"sinkhorn_gather_distributed={self.sinkhorn_gather_distributed}"
        )


SwaVLoss = SwAVLoss  # as lightly spells it


def swav_loss(
    high_resolution_outputs: Sequence[Tensor],
    low_resolution_outputs: Sequence[Tensor],
    queue_outputs: Sequence[Tensor] | None,
    *,
    temperature: float,
    epsilon: float,
    iterations: int,
    group: distributed.Group,
) -> Tensor:
    """`SwAVLoss` of these options; samples are assigned together over `group`."""
    high, low = list(high_resolution_outputs), list(low_resolution_outputs)
    _check(high, low, queue_outputs)
    queues: Sequence[Tensor | None] = queue_outputs or [None] * len(high)
    options: dict[str, Any] = {"iterations": iterations, "group": group}
    assigned = []
    with torch.no_grad():
        for scores, queue in zip(high, queues, strict=True):
            together = scores if queue is None else torch.cat([scores, queue.to(scores.dtype)])
            assigned.append(ops.sinkhorn(together, epsilon, **options)[: len(scores)])
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (*high, *low))
    loss: Tensor = _Predictions.apply(temperature, assigned, wanted, *high, *low)
    return loss


class _Predictions(torch.autograd.Function):
    """Mean cross entropy of scores with the assignments of all other crops, of high resolution.

    Each crop's softmax is taken once, in float32 also under autocast, against the sum of what it
    is to predict; its gradient takes its place.
    """

    @staticmethod
    def forward(
        ctx: Any, temperature: float, assigned: list[Tensor], wanted: bool, *crops: Tensor
    ) -> Tensor:
        pairs = len(assigned) * (len(crops) - 1)
        weight = 1 / (pairs * len(crops[0]))
        dtype = torch.float64 if torch.float64 in {x.dtype for x in crops} else torch.float32
        assigned = [x.to(dtype) for x in assigned]
        of_all = sum(assigned[1:], assigned[0]) if len(crops) > len(assigned) else assigned[0]
        terms, gradients = [], []
        for j, crop in enumerate(crops):
            others = [target for i, target in enumerate(assigned) if i != j]
            if not others:  # it is assigned, and predicts nothing
                continue
            target = of_all if len(others) == len(assigned) else sum(others[1:], others[0])
            predicted = F.log_softmax(crop.to(dtype) / temperature, dim=1)
            terms.append(torch.dot(target.flatten(), predicted.flatten()))
            if wanted:
                share = predicted.exp_().mul_(len(others)).sub_(target)
                gradients.append(share.mul_(weight / temperature).to(crop.dtype))
        ctx.save_for_backward(*gradients)
        ctx.skipped = len(crops) - len(terms)
        return torch.stack(terms).sum() * -weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        none = [None] * (3 + ctx.skipped)
        return *none, *((grad * x).to(x.dtype) for x in ctx.saved_tensors)


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
