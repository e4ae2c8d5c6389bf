"""Samples of the contrastive losses, and of what one process computes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Sample, samples_of

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def features(dtype: torch.dtype, rows: int, size: int, seed: int = 0) -> Tensor:
    """Normalised rows."""
    generator = torch.Generator().manual_seed(1000 * seed + rows + size)
    x = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    return F.normalize(x, dim=1).to(dtype)


def related(x: Tensor, seed: int = 1) -> Tensor:
    """Rows near those of x: what a model makes of it after some training."""
    noise = features(torch.float64, x.shape[0], x.shape[1], seed)
    return F.normalize(x.double() + 0.7 * noise, dim=1).to(x.dtype)


def transposed(x: Tensor) -> Tensor:
    """The same values, columns first in memory."""
    return x.T.contiguous().T


def number(dtype: torch.dtype, value: float) -> Tensor:
    """A scalar of the type that features of `dtype` are computed in."""
    return torch.tensor(value, dtype=torch.float64 if dtype == torch.float64 else torch.float32)


Pairs = Callable[[torch.dtype], tuple[Tensor, Tensor]]


def pair(rows: int, size: int) -> Pairs:
    def make(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x = features(dtype, rows, size)
        return x, related(x)

    return make


def repeated(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Seven different rows, each several times: negatives as near as positives."""
    x = features(dtype, 7, 9).repeat(9, 1)[:59]
    return x, x.clone()


# name, two views, scale. The first is small; odd sizes; more than a tile of rows and of columns.
PAIRS: tuple[tuple[str, Pairs, float], ...] = (
    ("small", pair(4, 5), 5.0),
    ("odd", pair(67, 33), 10.0),
    ("one", pair(1, 8), 10.0),
    ("two", pair(2, 3), 1.0),
    ("cold", lambda d: (features(d, 37, 16), features(d, 37, 16, seed=3)), 100.0),
    ("tiles", pair(650, 24), 10.0),
    (
        "transposed",
        lambda d: (transposed(features(d, 33, 20)), transposed(features(d, 33, 20))),
        7.0,
    ),
    ("repeated", repeated, 5.0),
    ("zeros", lambda d: (torch.zeros(6, 7, dtype=d), features(d, 6, 7)), 10.0),
    ("huge", lambda d: (10 * features(d, 21, 12), 10 * related(features(d, 21, 12))), 10.0),
)


@samples_of("nt_xent", DTYPES)
def nt_xent_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for name, make, scale in PAIRS:
        z = torch.cat(make(dtype))
        z = transposed(z) if name == "transposed" else z
        yield Sample(name, (z, number(dtype, scale), True), large=len(z) > 256)
    yield Sample(
        "without gradient", (features(dtype, 10, 6), number(dtype, 9.0), False), constants=(0, 1)
    )
    z = features(dtype, 10, 6)
    z[3, 2] = torch.nan
    yield Sample("nan", (z, number(dtype, 9.0), True))


@samples_of("info_nce", DTYPES)
def info_nce_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for name, make, scale in PAIRS:
        query, keys = make(dtype)
        targets = torch.arange(len(query)).flip(0)
        args = (query, keys, targets, number(dtype, scale), True, True)
        yield Sample(name, args, large=len(keys) > 256)
    query, keys = features(dtype, 9, 6), features(dtype, 70, 6)
    targets = torch.tensor([0, 69, 69, 3, 5, 5, 1, 2, 64])
    nine = number(dtype, 9.0)
    yield Sample("more keys", (query, keys, targets, nine, True, True))
    yield Sample("fixed keys", (query, keys, targets, nine, True, False), constants=(1,))
    yield Sample(
        "without gradient", (query, keys, targets, nine, False, False), constants=(0, 1, 3)
    )
    yield Sample("no queries", (query[:0], keys, targets[:0], nine, True, True))


@samples_of("info_nce_queue", DTYPES)
def info_nce_queue_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for (name, make, scale), kept in zip(
        PAIRS, (6, 130, 3, 1, 40, 2100, 64, 5, 9, 30), strict=True
    ):
        query, positive = make(dtype)
        queue = features(dtype, kept, query.shape[1], seed=2)
        queue = transposed(queue) if name == "transposed" else queue
        args = (query, positive, queue, number(dtype, scale), True)
        yield Sample(name, args, constants=(2,), large=kept > 256)
    query, nine = features(dtype, 5, 6), number(dtype, 9.0)
    yield Sample("empty queue", (query, related(query), query[:0], nine, True), constants=(2,))
    yield Sample("no queries", (query[:0], query[:0], query, nine, True), constants=(2,))
    yield Sample(
        "without gradient", (query, related(query), query, nine, False), constants=(0, 1, 2, 3)
    )


@samples_of("clip_loss", DTYPES)
def clip_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for name, make, scale in PAIRS:
        image, text = make(dtype)
        args = (image, text, number(dtype, scale), True)
        yield Sample(name, args, large=len(image) > 256)
    yield Sample(
        "without gradient", (*pair(9, 6)(dtype), number(dtype, 9.0), False), constants=(0, 1, 2)
    )


@samples_of("siglip_loss", DTYPES)
def siglip_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for name, make, scale in PAIRS:
        image, text = make(dtype)
        args = (image, text, number(dtype, scale), number(dtype, -3.0), 0, True)
        yield Sample(name, args, large=len(image) > 256)
    texts, numbers = features(dtype, 83, 6), (number(dtype, 9.0), number(dtype, -9.0))
    yield Sample("share", (texts[31:43], texts, *numbers, 31, True))
    yield Sample("no images", (texts[:0], texts, *numbers, 31, True))
    yield Sample(
        "without gradient", (texts[:7], texts[:7], *numbers, 0, False), constants=(0, 1, 2, 3)
    )


def _shares(dtype: torch.dtype) -> Iterator[tuple[str, Tensor, Tensor, Tensor, Tensor, int, bool]]:
    """Rows of one process among all: name, rows, columns, targets, scale, self_offset, both."""
    columns = features(dtype, 30, 9)
    rows, places = columns[10:18], torch.arange(8)
    yield "clip", related(rows), columns, places + 10, number(dtype, 8.0), -1, True
    yield "nt_xent", rows, columns, places.roll(-4) + 10, number(dtype, 8.0), 10, False
    yield "cold", rows, columns, places.roll(-4) + 10, number(dtype, 100.0), 10, True
    columns = features(dtype, 700, 16)
    targets = torch.arange(530) + 100
    yield "tiles", related(columns[100:630]), columns, targets, number(dtype, 10.0), -1, True
    yield "first rows", columns[:530], columns, targets.roll(7), number(dtype, 10.0), 0, False
    scale = number(dtype, 10.0)
    yield "no rows", columns[:0], columns, targets[:0], scale, -1, True


@samples_of("similarity_logsumexp", DTYPES)
def logsumexp_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for name, rows, columns, targets, scale, self_offset, both in _shares(dtype):
        args = (rows, columns, targets, scale, self_offset, both)
        yield Sample(name, args, large=len(rows) > 256)


@samples_of("similarity_gradients", DTYPES)
def gradient_samples(dtype: torch.dtype) -> Iterator[Sample]:
    for name, rows, columns, targets, scale, self_offset, both in _shares(dtype):
        logits = (scale * (rows.double() @ columns.double().T)).to(scale.dtype)
        row_lse = logits.logsumexp(dim=1)
        # Over more rows than these.
        column_lse = (scale * (columns.double() @ columns.double().T)).logsumexp(0).to(scale.dtype)
        args = (rows, columns, targets, scale, row_lse, column_lse, self_offset, both)
        yield Sample(name, args, large=len(rows) > 256)
