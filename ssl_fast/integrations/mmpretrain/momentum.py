"""Momentum encoders of MoCo, DenseCL, BYOL and MoCo v3, updated as a whole."""

from __future__ import annotations

import math
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ._patches import patches
from .foreach import grouped

# How many steps a model has made, as long as its buffer is the tensor, and has the version, that
# it was when it was last counted: reading it on a GPU would wait for the device.
_counted: WeakKeyDictionary[nn.Module, tuple[Tensor, int, int]] = WeakKeyDictionary()


@patches.replaces(
    "mmengine.model.averaged_model:BaseAveragedModel.update_parameters",
    "a2441edb0298",
    gain="all weights together, no wait for the GPU",
    relies_on={
        "mmengine.model.averaged_model:ExponentialMovingAverage.avg_func": ("bc991ddd686a",),
        "mmpretrain.models.utils.ema:CosineEMA.avg_func": ("72ba12c05268",),
    },
)
def update_parameters(original: Any, self: Any, model: nn.Module) -> None:
    """For the two averages that mmpretrain's models use, over parameters alone."""
    from mmengine.model import ExponentialMovingAverage
    from mmpretrain.models.utils import CosineEMA

    average = getattr(self.avg_func, "__func__", None)
    cosine = average is CosineEMA.avg_func
    if self.update_buffers or not (cosine or average is ExponentialMovingAverage.avg_func):
        original(self, model)
        return
    steps = _steps(self)
    parameters = dict(model.named_parameters())
    pairs = [(ours.data, parameters[k].data) for k, ours in self.avg_parameters.items()]
    if steps == 0:
        _copy(pairs)
    elif steps % self.interval == 0:
        pairs = [(ours, theirs) for ours, theirs in pairs if ours.dtype.is_floating_point]
        if cosine:
            _follow_exactly(pairs, _momentum(self, steps))
        else:
            for ours, theirs in grouped(pairs):
                torch._foreach_lerp_(ours, theirs, self.momentum)
    buffers = zip(self.module.buffers(), model.buffers(), strict=False)
    _copy([(ours.data, theirs.data) for ours, theirs in buffers])
    self.steps += 1
    _counted[self] = (self.steps, self.steps._version, steps + 1)


def _steps(model: Any) -> int:
    tensor, version, count = _counted.get(model, (None, 0, 0))
    if tensor is model.steps and version == model.steps._version:
        return count
    return int(model.steps)


def _momentum(model: Any, steps: int) -> float:
    """As `CosineEMA.avg_func`: the angle is computed in float32."""
    from mmengine.logging import MessageHub

    total = float(MessageHub.get_current_instance().get_info("max_iters"))
    angle = math.pi * torch.tensor(steps) / total
    falling = (math.cos(angle) + 1) / 2
    start, end = model.momentum, model.end_momentum
    return float(end - (end - start) * falling)


def _follow_exactly(pairs: list[tuple[Tensor, Tensor]], momentum: float) -> None:
    """In two steps, as `CosineEMA` does: lerp would round differently."""
    for ours, theirs in grouped(pairs):
        torch._foreach_mul_(ours, 1 - momentum)
        torch._foreach_add_(ours, theirs, alpha=momentum)


def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for ours, theirs in grouped(pairs):
        torch._foreach_copy_(ours, theirs)
