"""SwAV: assignments without rescaling their matrix, each view's prediction taken once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import ops
from ...distributed import default_group
from ._patches import patches
from .heads import gathers_on


@patches.replaces(
    "mmpretrain.models.losses.swav_loss:distributed_sinkhorn",
    "3f555cd31a1f",
    gain="scales vectors in place of the matrix, no wait for the GPU",
)
def distributed_sinkhorn(
    original: Any, out: Tensor, sinkhorn_iterations: int, world_size: int, epsilon: float
) -> Tensor:
    """Each process's own samples, as upstream; all processes' with `correct`.

    Where a prototype's sum is 0 or a score overflows, upstream adds 1e-12 to all or returns NaN;
    here it stays the result of exact arithmetic.
    """
    served = (
        isinstance(sinkhorn_iterations, int)
        and sinkhorn_iterations > 0
        and epsilon > 0
        and out.dim() == 2
        and len(out) > 0
        and (not patches.correct or gathers_on(out.device))
    )
    if not served:
        return original(out, sinkhorn_iterations, world_size, epsilon)
    group = default_group() if patches.correct else None
    assigned = ops.sinkhorn(out, epsilon, sinkhorn_iterations, group=group)
    # Upstream's exp is in float32 under autocast of a GPU, not under that of a CPU.
    wide = out.is_cuda and torch.is_autocast_enabled("cuda")
    return assigned if wide else assigned.to(out.dtype)


@patches.replaces(
    "mmpretrain.models.losses.swav_loss:SwAVLoss.forward",
    "a3c4fc26812d",
    gain="each view's log-softmax is taken once",
)
def swav_loss(original: Any, self: Any, x: Tensor) -> Any:
    """Every view predicts the assignments of the others."""
    from mmpretrain.models.losses import swav_loss as upstream

    views, assigned = int(sum(self.num_crops)), list(self.crops_for_assign)
    served = (
        isinstance(self.prototypes, nn.Linear)
        and views > 1
        and x.dim() == 2
        and len(x) > 0
        and len(x) % views == 0
        and sorted(set(assigned)) == sorted(assigned)
        and all(0 <= view < views for view in assigned)
    )
    if not served:
        return original(self, x)
    weight = self.prototypes.weight
    with torch.no_grad():
        weight.copy_(F.normalize(weight, dim=1))
    output = self.prototypes(x)
    targets = []
    with torch.no_grad():
        for index, view in enumerate(assigned):
            scores = output.detach().view(views, -1, output.shape[1])[view]
            count = len(scores)
            scores = _with_queue(self, index, scores, x.detach().view(views, count, -1)[view])
            assignments = upstream.distributed_sinkhorn(
                scores, self.sinkhorn_iterations, self.world_size, self.epsilon
            )
            targets.append(assignments[-count:])
    loss: Tensor = _SwappedPrediction.apply(
        output, torch.stack(targets), tuple(assigned), self.temperature
    )
    return loss


def _with_queue(loss: Any, index: int, scores: Tensor, embeddings: Tensor) -> Tensor:
    """Scores of the queue once it is full, and these; the embeddings join it."""
    if loss.queue is None:
        return scores
    queue = loss.queue[index]
    if loss.use_queue or not torch.all(queue[-1] == 0):
        loss.use_queue = True
        scores = torch.cat([torch.mm(queue, loss.prototypes.weight.t()), scores])
    count = len(embeddings)
    queue[count:] = queue[:-count].clone()
    queue[:count] = embeddings
    return scores


class _SwappedPrediction(torch.autograd.Function):
    """The mean cross entropy of assignments and other views' predictions.

    A view's gradient is softmax times its targets' sums, less the targets: it is formed where the
    softmax is at hand.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, targets: Tensor, assigned: tuple[int, ...], temperature: float
    ) -> Tensor:
        rows, size = targets.shape[1:]
        views = len(output) // rows
        # Autocast takes log-softmax in float32 on a GPU, in its own type on a CPU.
        wide = output.is_cuda and torch.is_autocast_enabled("cuda")
        dtype = torch.float64 if output.dtype == torch.float64 else torch.float32
        logits = output.view(views, rows, size).to(dtype) / temperature
        predicted = F.log_softmax(logits, dim=2)
        del logits
        targets = targets.to(dtype)
        every = targets.sum(dim=0)
        others = [
            every - targets[assigned.index(view)] if view in assigned else every
            for view in range(views)
        ]
        pairs = zip(others, predicted, strict=True)
        loss = -sum((target * prediction).sum() for target, prediction in pairs)
        factor = 1 / (rows * (views - 1) * len(assigned))
        if ctx.needs_input_grad[0]:
            grad = predicted.exp_()
            for target, part in zip(others, grad, strict=True):
                part.mul_(target.sum(dim=1, keepdim=True)).sub_(target)
            grad.mul_(factor / temperature)
            ctx.save_for_backward(grad.view(output.shape))
            ctx.dtype = output.dtype
        return (loss * factor).to(dtype if wide else output.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (saved,) = ctx.saved_tensors
        return (grad * saved).to(ctx.dtype), None, None, None
