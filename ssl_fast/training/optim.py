"""AdamW for pretraining: what decays, learning rates by layer, warm-up and cosine."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..models.base import BaseSelfSupervisor

NO_DECAY = ("cls_token", "pos_embed", "mask_token", "reg_token", "dist_token")


def parameter_groups(
    model: BaseSelfSupervisor, lr: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an optimiser: by weight decay and by depth.

    Norms, biases (all that has one dimension), tokens and positions do not decay. A backbone's
    parameter at depth d of n has the learning rate lr * layer_decay ** (n - 1 - d); what is not
    the backbone's has lr.

    Raises:
        NotImplementedError: with a layer_decay, for a backbone whose depths are not known.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 1.0
        if layer_decay != 1.0 and name.startswith("backbone."):
            depth, depths = model.get_layer_depth(name)
            scale = layer_decay ** (depths - 1 - depth)
        decay = weight_decay if decays(name, parameter) else 0.0
        key = (scale, decay)
        group = groups.setdefault(key, {"params": [], "lr": lr * scale, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay is for this parameter."""
    return parameter.dim() > 1 and not name.rsplit(".", 1)[-1].startswith(NO_DECAY)


def warmup_cosine(
    optimizer: torch.optim.Optimizer, lr: float, min_lr: float, warmup_steps: int, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """A schedule by step: linear from lr / warmup_steps to lr, then a cosine to min_lr.

    Source: Loshchilov and Hutter, "SGDR" (2017), without restarts.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
        least = min(1.0, min_lr / lr) if lr else 0.0
        return least + (1 - least) * (1 + math.cos(math.pi * progress)) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
