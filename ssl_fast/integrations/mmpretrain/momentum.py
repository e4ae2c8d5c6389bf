"""Momentum encoders of MoCo, DenseCL, BYOL and MoCo v3, updated as a whole."""

from __future__ import annotations

import math
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
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
    """For the two averages that mmpretrain's models use, over parameters alone.

    On a CPU, where nothing waits, it is upstream's.
    """
    from mmengine.model import ExponentialMovingAverage
    from mmpretrain.models.utils import CosineEMA

    averages = (ExponentialMovingAverage.avg_func, CosineEMA.avg_func)
    served = (
        not self.update_buffers
        and getattr(self.avg_func, "__func__", None) in averages
        and all(parameter.is_cuda for parameter in self.avg_parameters.values())
    )
    if served:
        _update(self, model)
    else:
        original(self, model)


def _update(averaged: Any, model: nn.Module) -> None:
    steps = _steps(averaged)
    parameters = dict(model.named_parameters())
    pairs = [(ours.data, parameters[k].data) for k, ours in averaged.avg_parameters.items()]
    if steps == 0:
        _copy(pairs)
    elif steps % averaged.interval == 0:
        _follow(averaged, [pair for pair in pairs if pair[0].dtype.is_floating_point], steps)
    buffers = zip(averaged.module.buffers(), model.buffers(), strict=False)
    _copy([(ours.data, theirs.data) for ours, theirs in buffers])
    averaged.steps += 1
    _counted[averaged] = (averaged.steps, averaged.steps._version, steps + 1)


def _steps(model: Any) -> int:
    counted = _counted.get(model)
    if counted and counted[0] is model.steps and counted[1] == model.steps._version:
        return counted[2]
    return int(model.steps)


def _follow(averaged: Any, pairs: list[tuple[Tensor, Tensor]], steps: int) -> None:
    from mmpretrain.models.utils import CosineEMA

    if not isinstance(averaged, CosineEMA):
        for ours, theirs in grouped(pairs):
            torch._foreach_lerp_(ours, theirs, averaged.momentum)
        return
    momentum = _cosine_momentum(averaged, steps)
    for ours, theirs in grouped(pairs):
        # In two steps as upstream: lerp would round differently.
        torch._foreach_mul_(ours, 1 - momentum)
        torch._foreach_add_(ours, theirs, alpha=momentum)


def _cosine_momentum(averaged: Any, steps: int) -> float:
    """As `CosineEMA.avg_func`; its angle is computed in float32."""
    from mmengine.logging import MessageHub

    total = float(MessageHub.get_current_instance().get_info("max_iters"))
    angle = float(np.float32(math.pi) * np.float32(steps) / np.float32(total))
    start, end = averaged.momentum, averaged.end_momentum
    return float(end - (end - start) * (math.cos(angle) + 1) / 2)


def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for ours, theirs in grouped(pairs):
        torch._foreach_copy_(ours, theirs)
