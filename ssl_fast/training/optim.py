"""Optimisers for pretraining: what decays, learning rates by layer, warm-up and cosine."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from .._compat import import_timm
from ..models.base import BaseSelfSupervisor

OPTIMIZERS = ("adamw", "sgd", "lars")
MOMENTUM = 0.9  # of SGD and LARS
NO_DECAY = ("cls_token", "pos_embed", "mask_token", "reg_token", "dist_token")


def make_optimizer(
    name: str, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """AdamW, or SGD with a momentum of 0.9, or LARS, which is that at a rate of each matrix's own.

    Source of LARS: You et al., "Large Batch Training of Convolutional Networks" (2017), from timm;
    norms and biases, which do not decay, are not adapted either, as in the papers that use it.

    Args:
        name: "adamw", "sgd" or "lars".
        groups: see `parameter_groups`.
        lr: learning rate.
        betas: of AdamW.
    """
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)
    groups = [{**group, "always_adapt": group["decays"]} for group in groups]
    import_timm()
    from timm.optim import Lars

    return Lars(groups, lr=lr, momentum=MOMENTUM)


def parameter_groups(
    model: BaseSelfSupervisor,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    constant_lr: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Groups for an optimiser: by weight decay and by depth.

    Norms, biases (all that has one dimension), tokens and positions do not decay. A backbone's
    parameter at depth d of n has the learning rate lr * layer_decay ** (n - 1 - d); what is not
    the backbone's has lr. Parameters whose names begin with one of constant_lr keep theirs.

    Raises:
        NotImplementedError: with a layer_decay, for a backbone whose depths are not known.
    """
    groups: dict[tuple[float, bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 1.0
        if layer_decay != 1.0 and name.startswith("backbone."):
            depth, depths = model.get_layer_depth(name)
            scale = layer_decay ** (depths - 1 - depth)
        key = (scale, decays(name, parameter), name.startswith(constant_lr))
        group = {
            "params": [],
            "lr": lr * scale,
            "weight_decay": weight_decay if key[1] else 0.0,
            "decays": key[1],
            "constant_lr": key[2],
        }
        groups.setdefault(key, group)["params"].append(parameter)
    return list(groups.values())


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay is for this parameter."""
    return parameter.dim() > 1 and not name.rsplit(".", 1)[-1].startswith(NO_DECAY)


def warmup_cosine(
    optimizer: torch.optim.Optimizer, lr: float, min_lr: float, warmup_steps: int, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """A schedule by step: linear from lr / warmup_steps to lr, then a cosine to min_lr.

    Groups with a true "constant_lr" keep their rate.

    Source: Loshchilov and Hutter, "SGDR" (2017), without restarts.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
        least = min(1.0, min_lr / lr) if lr else 0.0
        return least + (1 - least) * (1 + math.cos(math.pi * progress)) / 2

    factors = [
        (lambda step: 1.0) if group.get("constant_lr") else factor
        for group in optimizer.param_groups
    ]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
