"""The Barlow Twins loss, with the gradients to both views, as training takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ..._dispatch import OPS
from ..case import Case, Check, Inputs, Provider
from ..providers import standard, under_torch_compile

OP = "barlow_twins_loss"
WEIGHT, EPS = 0.0051, 1e-5
Loss = Callable[[Tensor, Tensor], Tensor]


def cases(device: str, small: bool) -> Iterator[Case]:
    """The paper's projector of 8,192 features; 2,048 with as many rows, and with few."""
    if small:
        yield _case(16, 96, torch.float32)
        return
    shapes = [(256, 8192), (256, 2048), (2048, 2048)]
    for rows, features in shapes:
        yield _case(rows, features, torch.float32)
    for rows, features in shapes if device == "cuda" else shapes[:1]:
        yield _case(rows, features, torch.bfloat16)


def _case(rows: int, features: int, dtype: torch.dtype) -> Case:
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

    name = str(dtype).removeprefix("torch.")
    law = Provider("mmpretrain's law", lambda device: _with_gradients(mmpretrain, rows))
    own = standard(OP, public, reference, lambda loss: _with_gradients(loss, rows))
    elements = rows * features
    return Case(
        op=OP,
        name=f"{rows} x {features}, with gradients",
        dtype=name,
        reference=_with_gradients(reference, rows),
        checks=(Check("random views", inputs, atol=0.05 if dtype == torch.bfloat16 else 1e-3),),
        moved_bytes=4 * elements * dtype.itemsize,
        providers=(
            *own,
            law,
            under_torch_compile(law),
        ),
    )


def _with_gradients(loss: Loss, rows: int) -> Callable[..., tuple[Tensor, ...]]:
    """The loss by feature, its gradients by row: of the size of a correlation."""

    def run(z0: Tensor, z1: Tensor) -> tuple[Tensor, ...]:
        leaves = [z.detach().requires_grad_() for z in (z0, z1)]
        value = loss(*leaves)
        gradients = torch.autograd.grad(value, leaves, torch.full_like(value, float(rows)))
        return (value.detach() / z0.shape[1], *gradients)

    return run


def mmpretrain(z0: Tensor, z1: Tensor) -> Tensor:
    """The steps of mmpretrain's LatentCrossCorrelationHead and its loss, in one process."""
    h0, h1 = (F.batch_norm(z, None, None, training=True, eps=EPS) for z in (z0, z1))
    matrix = (h0.T @ h1).float() / z0.shape[0]
    size = matrix.shape[0]
    on = (torch.diagonal(matrix) - 1).pow(2).sum()
    off = matrix.flatten()[:-1].view(size - 1, size + 1)[:, 1:].flatten().pow(2).sum()
    return on + WEIGHT * off
