"""The Barlow Twins loss, with the gradients to both views, as training takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ..._dispatch import OPS
from ..case import Case, Check, Inputs, Provider
from ..gradients import with_gradients
from ..providers import COMPILED, EAGER, growing, in_long_runs, others, peer, standard

OP = "barlow_twins_loss"
WEIGHT, EPS = 0.0051, 1e-5
Loss = Callable[[Tensor, Tensor], Tensor]


def cases(device: str, small: bool) -> Iterator[Case]:
    """The paper's projector of 8,192 features; 2,048 with as many rows, and with few."""
    if small:
        yield _case(device, 16, 96, torch.float32, headline=True)
        return
    shapes = [(256, 8192), (256, 2048), (2048, 2048)]
    for rows, features in shapes:
        yield _case(device, rows, features, torch.float32, headline=features == 8192)
    for rows, features in shapes if device == "cuda" else shapes[:1]:
        yield _case(device, rows, features, torch.bfloat16)


def growth(device: str, small: bool) -> Iterator[Case]:
    """Over the number of features."""
    rows = 16 if small else 2048 if device == "cuda" else 256
    for features in (32, 64) if small else (512, 1024, 2048, 8192):
        yield growing(_case(device, rows, features, torch.float32), "D", features)


def _case(
    device: str, rows: int, features: int, dtype: torch.dtype, headline: bool = False
) -> Case:
    def inputs(device: str, seed: int) -> Inputs:
        """Two views that have half their variance in common."""
        generator = torch.Generator(device).manual_seed(seed)
        common, *own = (
            torch.randn((rows, features), device=device, generator=generator) for _ in range(3)
        )
        return tuple((common + view).to(dtype) for view in own)

    def public(z0: Tensor, z1: Tensor) -> Tensor:
        return ops.barlow_twins_loss(z0, z1, WEIGHT, eps=EPS)

    def reference(z0: Tensor, z1: Tensor) -> Tensor:
        wide = torch.float64 if z0.dtype == torch.float64 else torch.float32
        weight = torch.tensor(WEIGHT, dtype=wide, device=z0.device)
        loss: Tensor = OPS[OP].reference(z0, z1, weight, EPS, False)[0]
        return loss

    def complete(loss: Loss) -> Callable[..., tuple[Tensor, ...]]:
        """The loss by feature, its gradients by row: of the size of a correlation."""
        run = with_gradients((0, 1), float(rows))

        def by_feature(z0: Tensor, z1: Tensor) -> tuple[Tensor, ...]:
            value, *gradients = run(loss)(z0, z1)
            return (value / features, *gradients)

        return by_feature

    own = standard(OP, public, reference, complete)
    if device == "cpu" and features > 4096:  # matrices of seconds
        own = in_long_runs(own, EAGER, COMPILED)
    return Case(
        op=OP,
        name=f"Barlow Twins: {rows} x {features}, with gradients",
        dtype=str(dtype).removeprefix("torch."),
        reference=complete(reference),
        checks=(Check("random views", inputs, atol=0.05 if dtype == torch.bfloat16 else 1e-3),),
        moved_bytes=4 * rows * features * dtype.itemsize,
        # C [D, D] and the two slopes that it makes: 6 N D^2. Or of two Gram matrices [N, N], which
        # are symmetric, half, and the slopes that these make: 6 N^2 D.
        flops=6 * rows * features * min(rows, features),
        providers=(*own, *_peers(features, complete)),
        theirs="mmpretrain",
        headline=headline,
    )


def _peers(features: int, complete: Callable[[Loss], Any]) -> tuple[Provider, ...]:
    def mmpretrain(device: str) -> Loss:
        loss: Loss = peer("mmpretrain_peer").barlow_twins_loss(features, WEIGHT, device)
        return loss

    def lightly(device: str) -> Loss:
        loss: Loss = peer("lightly_peer").barlow_twins_loss(WEIGHT)
        return loss

    return (
        *others("mmpretrain", mmpretrain, ("mmpretrain",), complete),
        *others("lightly", lightly, ("lightly",), complete),
    )
