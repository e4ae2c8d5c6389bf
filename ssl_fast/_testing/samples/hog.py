"""Samples of `hog` and `hog_tokens`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .base import Sample, samples_of

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
EPS = 1e-12


def integers(dtype: torch.dtype, *shape: int) -> Tensor:
    """Random images of the values 0 .. 255, which all these types hold exactly."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(dtype)


def with_nan(dtype: torch.dtype) -> Tensor:
    """A NaN inside, one in a corner, one where four cells meet."""
    images = integers(dtype, 2, 2, 32, 48)
    images[0, 0, 11, 20] = torch.nan
    images[0, 1, 0, 0] = torch.nan
    images[1, 1, 15, 16] = torch.nan
    return images


@samples_of("hog", DTYPES)
def hog(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, images: Tensor, nbins: int = 9, cell: int = 8, window: int = 0) -> Sample:
        return Sample(name, (images, nbins, cell, window, EPS))

    yield sample("plain", integers(dtype, 2, 3, 32, 48))
    yield sample("gaussian", integers(dtype, 1, 3, 32, 48), window=16)
    yield sample("gaussian odd", integers(dtype, 1, 2, 16, 40), window=5)
    yield sample("gaussian larger than the image", integers(dtype, 1, 1, 16, 24), window=512)
    yield sample("one channel, one cell", integers(dtype, 1, 1, 8, 8))
    yield sample("five channels, half a strip", integers(dtype, 1, 5, 8, 24))
    yield sample("empty batch", integers(dtype, 0, 3, 16, 16))
    yield sample("several chunks", integers(dtype, 1, 1, 8, 1064), window=16)
    yield sample("several bands", integers(dtype, 1, 1, 136, 16), window=24)
    for nbins in (1, 2, 8, 12, 16, 18, 180):
        yield sample(f"{nbins} bins", integers(dtype, 1, 1, 16, 16), nbins=nbins, window=16)
    yield sample("small cells", integers(dtype, 1, 2, 4, 6), cell=2)
    yield sample("cells of one pixel", integers(dtype, 1, 1, 3, 4), cell=1)
    yield sample("odd cells", integers(dtype, 1, 2, 15, 20), cell=5, window=16)
    yield sample("large cells", integers(dtype, 1, 1, 192, 192), cell=96)
    yield sample(
        "cells wider than a thread block", integers(dtype, 1, 1, 160, 320)[..., 1::2], cell=160
    )
    yield sample("constant", torch.full((1, 2, 16, 16), 7, dtype=dtype))
    channels_last = integers(dtype, 2, 3, 16, 32).to(memory_format=torch.channels_last)
    yield sample("channels last", channels_last)
    yield sample("every second pixel", integers(dtype, 1, 2, 32, 64)[..., ::2, 1::2])
    yield sample("unaligned columns", integers(dtype, 1, 2, 16, 40)[..., 3:35])
    yield sample("stride 0", integers(dtype, 1, 1, 16, 16).expand(3, 2, 16, 16))
    if dtype.is_floating_point:
        yield sample("nan", with_nan(dtype))
        generator = torch.Generator().manual_seed(0)
        yield sample("normal", torch.randn(2, 3, 32, 48, generator=generator).to(dtype), window=16)


@samples_of("hog_tokens", DTYPES)
def hog_tokens(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(
        name: str,
        images: Tensor,
        patch: int = 16,
        nbins: int = 9,
        cell: int = 8,
        window: int = 0,
        mask: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Sample:
        return Sample(name, (images, patch, nbins, cell, window, EPS, mask, ids))

    images = integers(dtype, 2, 3, 32, 48)  # 2 x 3 patches of 16
    mask = torch.tensor([[1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    ids = torch.tensor([[5, 0, 3], [2, 2, 4]])
    yield sample("all", images)
    yield sample("mask", images, mask=mask)
    yield sample("mask, gaussian", images, mask=~mask, window=16)
    yield sample("ids", images, ids=ids)
    yield sample("ids, gaussian of another period", images, ids=ids, window=20)
    yield sample("ids of one column, strided", images, ids=ids[:, ::2])
    yield sample("no ids", images, ids=ids[:, :0])
    yield sample("patches of a cell", images, patch=8, ids=torch.tensor([[0, 23], [9, 7]]))
    yield sample("large patches", integers(dtype, 1, 2, 48, 96), patch=48, ids=torch.tensor([[1]]))
    yield sample("patches of many cells", integers(dtype, 1, 1, 136, 136), patch=136, window=16)
    yield sample("other bins", images, nbins=12, cell=4, mask=mask)
    yield sample("odd cells", integers(dtype, 1, 2, 30, 20), patch=10, cell=5, window=16)
    yield sample("empty batch", images[:0], ids=ids[:0])
    yield sample("channels last", images.to(memory_format=torch.channels_last), ids=ids)
    if dtype.is_floating_point:
        yield sample("nan", with_nan(dtype), mask=mask)
