"""Samples of `sinkhorn` and of its steps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...ops.sinkhorn import reference
from .base import Sample, samples_of

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def scalar(dtype: torch.dtype, value: float) -> Tensor:
    # Of float32's values, so that what is made of it in float64 is the same call.
    return torch.tensor(value).to(reference.compute_dtype(dtype))


def cosines(dtype: torch.dtype, samples: int, prototypes: int) -> Tensor:
    generator = torch.Generator().manual_seed(samples * prototypes)
    shape = (samples, prototypes)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1).to(dtype)


def scores_of(dtype: torch.dtype) -> Iterator[tuple[str, Tensor, float]]:
    """Names, scores and epsilons."""
    scores = cosines(dtype, 13, 37)
    yield "cosines", scores, 0.05
    yield "whole vectors", cosines(dtype, 8, 32), 0.05
    yield "many samples", cosines(dtype, 1100, 3), 0.05
    yield "many prototypes", cosines(dtype, 3, 2500), 0.1
    yield "several chunks", cosines(dtype, 70, 20), 0.05
    yield "one sample", scores[:1], 0.05
    yield "one prototype", scores[:, :1].clone(), 0.05
    yield "one of both", scores[:1, :1].clone(), 0.05
    yield "constant", torch.full((5, 7), 0.25, dtype=dtype), 0.05
    yield "huge", cosines(dtype, 13, 37) * (1e4 if dtype == torch.float16 else 1e30), 0.05
    yield "tiny", cosines(dtype, 13, 37) * 1e-6, 0.05
    yield "small epsilon", scores, 0.001
    yield "one sample is far away", torch.cat([scores, scores[:1] - 9]), 0.001
    yield "one sample is best everywhere", torch.cat([scores, scores[:1] + 9]), 0.01
    some = scores.clone()
    some[::2, 3] = some[5, ::3] = -torch.inf
    yield "some assignments are ruled out", some, 0.05
    some = scores.clone()
    some[4, 5] = torch.nan
    yield "nan", some, 0.05
    yield "transposed", cosines(dtype, 37, 13).mT, 0.05
    yield "every second", cosines(dtype, 26, 74)[::2, ::2], 0.05
    yield "wide rows", cosines(dtype, 13, 74)[:, :37], 0.05
    yield "same samples", scores[:1].expand(6, 37), 0.05


@samples_of("sinkhorn", DTYPES)
def sinkhorn(dtype: torch.dtype) -> Iterator[Sample]:
    for name, scores, epsilon in scores_of(dtype):
        yield Sample(name, (scores, scalar(dtype, epsilon), 3))
    scores = cosines(dtype, 13, 37)
    yield Sample("one iteration", (scores, scalar(dtype, 0.05), 1))
    yield Sample("ten iterations", (scores, scalar(dtype, 0.05), 10))


@samples_of("sinkhorn_columns", DTYPES)
def sinkhorn_columns(dtype: torch.dtype) -> Iterator[Sample]:
    for name, scores, epsilon in scores_of(dtype):
        if name != "nan":  # where the columns' maxima may be anything
            yield Sample(name, (scores, scalar(dtype, epsilon)))
    yield Sample("no samples", (cosines(dtype, 0, 37), scalar(dtype, 0.05)))


def _steps(dtype: torch.dtype) -> Iterator[Sample]:
    for name, scores, epsilon in scores_of(dtype):
        eps = scalar(dtype, epsilon)
        maxima, sums = reference.sinkhorn_columns(scores, eps)
        yield Sample(name, (scores, eps, maxima, sums))
    scores, eps = cosines(dtype, 13, 37), scalar(dtype, 0.05)
    maxima, sums = reference.sinkhorn_columns(scores, eps)
    yield Sample("no samples", (scores[:0], eps, maxima, sums))
    yield Sample("sums of stride 0", (scores, eps, maxima, sums[:1].expand(37)))


@samples_of("sinkhorn_sweep", DTYPES)
def sinkhorn_sweep(dtype: torch.dtype) -> Iterator[Sample]:
    yield from _steps(dtype)


@samples_of("sinkhorn_assign", DTYPES)
def sinkhorn_assign(dtype: torch.dtype) -> Iterator[Sample]:
    yield from _steps(dtype)
