"""Sinkhorn's assignments as SwAV and DINOv2 take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ... import ops
from ..._dispatch import OPS
from ..case import Case, Check, Inputs, Provider
from ..providers import growing, others, peer, standard

OP = "sinkhorn"
ITERATIONS = 3
Assign = Callable[[Tensor], Tensor]


def cases(device: str, small: bool) -> Iterator[Case]:
    """SwAV's 3,000 prototypes at epsilon 0.05; DINOv2's 65,536 at a temperature of 0.07."""
    if small:
        yield _case("SwAV", 64, 96, 0.05, torch.float32, headline=True)
        return
    for samples in (512, 4096):
        yield _case("SwAV", samples, 3000, 0.05, torch.float32, headline=samples == 4096)
    yield _case("SwAV", 4096, 3000, 0.05, torch.bfloat16)
    yield _case("DINOv2", 2048 if device == "cuda" else 128, 65536, 0.07, torch.float32)


def growth(device: str, small: bool) -> Iterator[Case]:
    """Over the number of prototypes."""
    samples = 32 if small else 4096 if device == "cuda" else 512
    sizes = (1024, 4096, 16384, 65536) if device == "cuda" else (1024, 4096, 8192, 16384)
    for prototypes in (64, 128) if small else sizes:
        case = _case("SwAV", samples, prototypes, 0.05, torch.float32)
        yield growing(case, "prototypes", prototypes)


def _case(
    method: str,
    samples: int,
    prototypes: int,
    epsilon: float,
    dtype: torch.dtype,
    headline: bool = False,
) -> Case:
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
        name=f"{method}: {samples} x {prototypes}, epsilon {epsilon}",
        dtype=name,
        reference=reference,
        # Of the mean assignment, 1 / K: the largest are hundreds of these.
        checks=(Check("random cosines", inputs, atol=0.02 / prototypes),),
        moved_bytes=elements * ((ITERATIONS + 1) * dtype.itemsize + 4),
        providers=(*standard(OP, public, reference), *_peers(epsilon)),
        theirs="mmpretrain",
        headline=headline,
    )


def _peers(epsilon: float) -> tuple[Provider, ...]:
    def of(package: str) -> Callable[[str], Assign]:
        def prepare(device: str) -> Assign:
            assign: Assign = peer(f"{package}_peer").sinkhorn(epsilon, ITERATIONS)
            return assign

        return prepare

    return (
        *others("mmpretrain", of("mmpretrain"), ("mmpretrain",)),
        *others("lightly", of("lightly"), ("lightly",)),
        *others("DINOv2's steps", lambda device: lambda scores: dinov2(scores, epsilon)),
    )


@torch.no_grad()
def dinov2(scores: Tensor, epsilon: float) -> Tensor:
    """The steps of DINOv2's `sinkhorn_knopp_teacher`, which is in no package."""
    q = torch.exp(scores.float() / epsilon).t()
    q /= torch.sum(q)
    for _ in range(ITERATIONS):
        q /= torch.sum(q, dim=1, keepdim=True)
        q /= q.shape[0]
        q /= torch.sum(q, dim=0, keepdim=True)
        q /= q.shape[1]
    q *= q.shape[1]
    return q.t()
