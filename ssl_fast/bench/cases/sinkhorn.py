"""Sinkhorn's assignments as SwAV and DINOv2 take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ... import ops
from ..._dispatch import OPS
from ..case import Case, Check, Inputs, Provider
from ..providers import standard, under_torch_compile

OP = "sinkhorn"
ITERATIONS = 3
Assign = Callable[[Tensor], Tensor]


def cases(device: str, small: bool) -> Iterator[Case]:
    """SwAV's 3,000 prototypes at epsilon 0.05; DINOv2's 65,536 at a temperature of 0.07."""
    if small:
        yield _case("SwAV", 64, 96, 0.05, torch.float32)
        return
    for samples in (512, 4096):
        yield _case("SwAV", samples, 3000, 0.05, torch.float32)
    yield _case("SwAV", 4096, 3000, 0.05, torch.bfloat16)
    yield _case("DINOv2", 2048 if device == "cuda" else 128, 65536, 0.07, torch.float32)


def _case(method: str, samples: int, prototypes: int, epsilon: float, dtype: torch.dtype) -> Case:
    def inputs(device: str, seed: int) -> Inputs:
        """Cosines of random features of 128 dimensions are about normal."""
        generator = torch.Generator(device).manual_seed(seed)
        shape = (samples, prototypes)
        scores = torch.randn(shape, device=device, generator=generator) / 128**0.5
        return (scores.to(dtype),)

    def public(scores: Tensor) -> Tensor:
        return ops.sinkhorn(scores, epsilon, ITERATIONS)

    def reference(scores: Tensor) -> Tensor:
        wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
        eps = torch.tensor(epsilon, dtype=wide, device=scores.device)
        assigned: Tensor = OPS[OP].reference(scores, eps, ITERATIONS)
        return assigned

    name = str(dtype).removeprefix("torch.")
    elements = samples * prototypes
    return Case(
        op=OP,
        name=f"{method} {samples} x {prototypes}, epsilon {epsilon}",
        dtype=name,
        reference=reference,
        # Of the mean assignment, 1 / K: the largest are hundreds of these.
        checks=(Check("random cosines", inputs, atol=0.02 / prototypes),),
        moved_bytes=elements * ((ITERATIONS + 1) * dtype.itemsize + 4),
        providers=_providers(public, reference, epsilon),
    )


def _providers(public: Assign, reference: Assign, epsilon: float) -> tuple[Provider, ...]:
    def with_epsilon(law: Callable[[Tensor, float], Tensor]) -> Assign:
        return lambda scores: law(scores, epsilon)

    laws = (
        Provider("mmpretrain's law", lambda device: with_epsilon(mmpretrain)),
        Provider("DINOv2's law", lambda device: with_epsilon(dinov2)),
    )
    return (*standard(OP, public, reference), *laws, *map(under_torch_compile, laws))


@torch.no_grad()
def mmpretrain(scores: Tensor, epsilon: float) -> Tensor:
    """The steps of mmpretrain's `distributed_sinkhorn`, as SwAV's and lightly's, in one process."""
    q = torch.exp(scores.float() / epsilon).t()
    q = q / torch.sum(q)
    for _ in range(ITERATIONS):
        q = q / torch.sum(q, dim=1, keepdim=True)
        q = q / q.shape[0]
        q = q / torch.sum(q, dim=0, keepdim=True)
        q = q / q.shape[1]
    q = q * q.shape[1]
    return q.t()


@torch.no_grad()
def dinov2(scores: Tensor, epsilon: float) -> Tensor:
    """The steps of DINOv2's `sinkhorn_knopp_teacher`, which work in place."""
    q = torch.exp(scores.float() / epsilon).t()
    q /= torch.sum(q)
    for _ in range(ITERATIONS):
        q /= torch.sum(q, dim=1, keepdim=True)
        q /= q.shape[0]
        q /= torch.sum(q, dim=0, keepdim=True)
        q /= q.shape[1]
    q *= q.shape[1]
    return q.t()
