"""mmpretrain's LARS without waiting for the GPU at every weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._patches import patches
from .foreach import grouped


@patches.replaces(
    "mmpretrain.engine.optimizers.lars:LARS.step",
    "dd3224f9674d",
    gain="all weights together, no wait for the GPU",
)
def step(original: Any, self: Any, closure: Any = None) -> Any:
    """Rates of layers stay on their device. On a CPU, where nothing waits, it is upstream's."""
    if not all(_is_served(group) for group in self.param_groups):
        return original(self, closure)
    # torch wraps an optimiser's step when its first instance is made, for hooks and the profiler.
    hooked = getattr(original, "hooked", False)
    return (_hooked_step if hooked else _step)(self, closure)


def _is_served(group: dict[str, Any]) -> bool:
    # A rate on the device would be rounded to the type of half weights; upstream's is not.
    return isinstance(group["lr"], int | float) and all(
        p.is_cuda
        and p.dtype in (torch.float32, torch.float64)
        and (p.grad is None or p.grad.layout == torch.strided)
        for p in group["params"]
    )


@torch.no_grad()
def _step(optimizer: Any, closure: Any = None) -> Any:
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    for group in optimizer.param_groups:
        pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
        for weights, grads in grouped(pairs):
            steps = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
            if group.get("lars_exclude", False):
                torch._foreach_mul_(steps, group["lr"])
            else:
                rates = _rates(weights, grads, group, optimizer.eps)
                torch._foreach_mul_(steps, rates)
            if group["momentum"] != 0:
                steps = _with_momentum(optimizer.state, weights, steps, group)
            torch._foreach_sub_(weights, steps)
    return loss


_hooked_step = torch.optim.Optimizer.profile_hook_step(_step)


def _rates(
    weights: list[Tensor], grads: list[Tensor], group: dict[str, Any], eps: float
) -> list[Tensor]:
    """Each weight's learning rate, a scalar beside it; computed in float64, as upstream's."""
    weight_norm, grad_norm = (
        torch.stack(list(torch._foreach_norm(tensors))).double() for tensors in (weights, grads)
    )
    ratio = weight_norm / (grad_norm + group["weight_decay"] * weight_norm + eps)
    adapted = (weight_norm != 0) & (grad_norm != 0)
    rates = torch.where(adapted, group["eta"] * ratio, 1.0) * group["lr"]
    return list(rates.to(weights[0].dtype).unbind())


def _with_momentum(
    state: Any, weights: list[Tensor], steps: list[Tensor], group: dict[str, Any]
) -> list[Tensor]:
    """Adds steps to momentum buffers, which are made where there are none; what to subtract."""
    known = [i for i, p in enumerate(weights) if "momentum_buffer" in state[p]]
    for p, d in zip(weights, steps, strict=True):
        # The first step is the buffer itself.
        state[p].setdefault("momentum_buffer", d.clone() if group["nesterov"] else d)
    buffers = [state[p]["momentum_buffer"] for p in weights]
    if known:
        moving = [buffers[i] for i in known]
        torch._foreach_mul_(moving, group["momentum"])
        torch._foreach_add_(moving, [steps[i] for i in known], alpha=1 - group["dampening"])
    if not group["nesterov"]:
        return buffers
    torch._foreach_add_(steps, buffers, alpha=group["momentum"])
    return steps
