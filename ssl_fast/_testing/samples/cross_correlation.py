"""Samples of `barlow_twins_loss` and of its two halves for many processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...ops.cross_correlation import reference
from .base import Sample, samples_of

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
EPS = 1e-5


def weight(dtype: torch.dtype) -> Tensor:
    return torch.tensor(0.0051).to(reference.compute_dtype(dtype))


def views(dtype: torch.dtype, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Two views that are alike, off centre and of different spreads."""
    generator = torch.Generator().manual_seed(rows * columns)
    shape = (rows, columns)
    common, own = (torch.randn(shape, generator=generator).double() for _ in range(2))
    spread = torch.linspace(0.5, 2, columns, dtype=torch.float64)
    return (common * spread + 0.5).to(dtype), (common + own).to(dtype)


def pairs(dtype: torch.dtype) -> Iterator[tuple[str, Tensor, Tensor]]:
    """By rows where 2 N <= D, else by columns of C."""
    yield "more rows than columns", *views(dtype, 7, 5)
    yield "more columns than rows", *views(dtype, 5, 37)
    yield "twice as many columns", *views(dtype, 16, 32)
    yield "many rows", *views(dtype, 150, 6)
    yield "many columns", *views(dtype, 6, 150)
    yield "one column", *views(dtype, 9, 1)
    yield "one row", *views(dtype, 1, 6)
    yield "one of both", *views(dtype, 1, 1)
    yield "two rows", *views(dtype, 2, 8)
    z0, z1 = views(dtype, 12, 20)
    yield "constant columns", torch.where(torch.arange(20) % 3 == 0, z0[:1], z0), z1
    yield "transposed", views(dtype, 20, 12)[0].mT, z1
    yield "every second", views(dtype, 24, 40)[0][::2, ::2], z1
    yield "rows apart", torch.cat([z0, z1], dim=1)[:, :20], torch.cat([z0, z1], dim=1)[:, 20:]
    yield "same rows", z0[:1].expand(12, 20), z1
    z0 = z0.clone()
    z0[3, 4] = torch.nan
    yield "nan", z0, z1


@samples_of("barlow_twins_loss", DTYPES)
def barlow_twins_loss(dtype: torch.dtype) -> Iterator[Sample]:
    for name, z0, z1 in pairs(dtype):
        yield Sample(name, (z0, z1, weight(dtype), EPS, True), constants=(2,))


@samples_of("cross_correlation_rows", DTYPES)
def cross_correlation_rows(dtype: torch.dtype) -> Iterator[Sample]:
    for name, z0, z1 in pairs(dtype):
        rows = z0.shape[0]
        yield Sample(name, (z0, z1, EPS, rows // 3, rows, True))
        yield Sample(f"{name}, no gradient", (z0, z1, EPS, 0, rows, False))
    z0, z1 = views(dtype, 12, 20)
    yield Sample("none of the rows", (z0, z1, EPS, 4, 4, True))
    yield Sample("none of the rows, no gradient", (z0, z1, EPS, 4, 4, False))


@samples_of("barlow_twins_gradients", DTYPES)
def barlow_twins_gradients(dtype: torch.dtype) -> Iterator[Sample]:
    for name, z0, z1 in pairs(dtype):
        rows = z0.shape[0]
        for with_gradient in (True, False):
            parts = reference.cross_correlation_rows(z0, z1, EPS, 0, rows, with_gradient)
            kind = name if with_gradient else f"{name}, no gradient"
            yield Sample(kind, (z0, z1, *parts, weight(dtype), rows))
    z0, z1 = views(dtype, 12, 20)
    parts = reference.cross_correlation_rows(z0, z1, EPS, 4, 4, True)
    yield Sample("no rows", (z0[:0], z1[:0], *parts, weight(dtype), 12))
