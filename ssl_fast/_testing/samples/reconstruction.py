"""Samples of `masked_patch_loss` and of its backward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .base import Sample, samples_of
from .hog import integers

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)


def normal(dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def masks(*shape: int) -> Tensor:
    """About three quarters masked; the first patch is."""
    generator = torch.Generator().manual_seed(sum(shape))
    mask = torch.rand(shape, generator=generator) < 0.75
    mask[:1, :1] = True
    return mask


def statistics(dtype: torch.dtype) -> dict[str, Any]:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return {"mean": torch.tensor(MEAN, dtype=wide), "std": torch.tensor(STD, dtype=wide)}


class Calls:
    """Makes samples of the loss, or of its backward, from the same calls.

    Attributes:
        dtype: of the images, and of the predictions unless said otherwise.
    """

    def __init__(self, dtype: torch.dtype, backward: bool) -> None:
        self.dtype = dtype
        self.backward = backward
        self.pred_dtype = dtype if dtype.is_floating_point else torch.float32

    def images(self, *shape: int) -> Tensor:
        """Of the values 0 .. 255, which all these types hold exactly."""
        return integers(self.dtype, *shape)

    def tokens(self, images: Tensor, patch: int) -> Tensor:
        batch, channels, height, width = images.shape
        total = (height // patch) * (width // patch)
        return normal(self.pred_dtype, batch, total, patch * patch * channels)

    def __call__(
        self,
        name: str,
        images: Tensor,
        patch: int = 4,
        norm_pix: bool = True,
        p: int = 2,
        pred: Tensor | None = None,
        mask: Tensor | None = None,
        **statistics: Any,
    ) -> Sample:
        batch, _, height, width = images.shape
        pred = self.tokens(images, patch) if pred is None else pred
        mask = masks(batch, (height // patch) * (width // patch)) if mask is None else mask
        options = (patch, norm_pix, p, statistics.get("mean"), statistics.get("std"))
        args = (pred, images, mask, *options)
        if not self.backward:
            return Sample(name, args, constants=(1, 6, 7))
        wide = torch.float64 in (pred.dtype, images.dtype)
        grad = torch.tensor(1.5, dtype=torch.float64 if wide else torch.float32)
        return Sample(name, (grad, mask.sum(dtype=grad.dtype), *args))


def _samples(call: Calls) -> Iterator[Sample]:
    images = call.images(2, 3, 16, 24)
    shaped = normal(call.pred_dtype, 2, 3, 16, 24)
    simmim: dict[str, Any] = {"norm_pix": False, "p": 1}
    yield call("mae", images, 8)
    yield call("simmim", images, pred=shaped, **simmim)
    yield call("mae, absolute error", images, p=1)
    yield call("raw pixels", images, norm_pix=False)
    yield call("statistics", images, 8, **statistics(call.dtype))
    yield call("simmim, statistics", images, pred=shaped, **simmim, **statistics(call.dtype))
    yield call("one mean, no std", images, mean=statistics(call.dtype)["mean"][:1].expand(3))
    yield call("image-shaped and normalised", images, 8, pred=shaped)
    yield call("patches of 16", call.images(2, 3, 32, 48), 16)
    yield call("patches of 14", call.images(1, 3, 28, 42), 14, **statistics(call.dtype))
    yield call("patches of 32", call.images(1, 3, 32, 64), 32)
    yield call("patches of one pixel", images[..., :5, :7], 1)
    yield call("pixels, raw", images[..., :5, :7], 1, norm_pix=False, **statistics(call.dtype))
    yield call("one channel, one patch", call.images(1, 1, 8, 8), 8)
    yield call("five channels", call.images(2, 5, 12, 8))
    yield call("patches of two", call.images(1, 3, 6, 40), 2)
    yield call("wide rows, image-shaped", call.images(1, 3, 8, 1200),
               pred=normal(call.pred_dtype, 1, 3, 8, 1200), **simmim)  # fmt: skip
    yield call("patches beyond a buffer", call.images(1, 3, 96, 96), 96)
    yield call("all masked", images, mask=torch.ones(2, 24, dtype=torch.bool))
    yield call("none masked", images, mask=torch.zeros(2, 24, dtype=torch.bool))
    yield call("empty batch", images[:0])
    yield call("constant patches", torch.full((2, 3, 16, 24), 7, dtype=call.dtype))
    if call.dtype in (torch.uint8, torch.float32):
        yield from _strided(call, images, shaped)
    yield from _mixed(call, images, shaped)


def _strided(call: Calls, images: Tensor, shaped: Tensor) -> Iterator[Sample]:
    last = torch.channels_last
    tokens = call.tokens(images, 8)
    yield call("channels last", images.to(memory_format=last), 8)
    yield call("channels last, both", images.to(memory_format=last), norm_pix=False, p=1,
               pred=shaped.to(memory_format=last))  # fmt: skip
    yield call("every second pixel", call.images(2, 3, 32, 48)[..., ::2, 1::2], 8)
    yield call("images with stride 0", images[:1].expand(2, 3, 16, 24), 8)
    yield call("tokens transposed", images, 8, pred=tokens.mT.contiguous().mT)
    yield call("tokens without the first", images, 8,
               pred=torch.cat([tokens[:, :1], tokens], dim=1)[:, 1:])  # fmt: skip
    yield call("tokens with stride 0", images, 8, pred=tokens[:, :, :1].expand_as(tokens))
    yield call("mask transposed", images, 8, mask=masks(6, 2).mT)


def _mixed(call: Calls, images: Tensor, shaped: Tensor) -> Iterator[Sample]:
    narrow = (torch.float16, torch.bfloat16) if call.dtype != torch.float64 else (torch.bfloat16,)
    for dtype in (*narrow, torch.float32, torch.float64):
        if dtype == call.pred_dtype:
            continue
        name = str(dtype).removeprefix("torch.")
        yield call(f"{name} tokens", images, 8, pred=call.tokens(images, 8).to(dtype))
        if call.dtype == torch.uint8:
            yield call(f"{name} image", images, pred=shaped.to(dtype), norm_pix=False, p=1)
    if call.dtype.is_floating_point:
        yield call("normal images", normal(call.dtype, 2, 3, 16, 24), 8)
        images = images.clone()
        images[0, 1, 3, 4] = torch.nan
        yield call("nan", images, 8)


@samples_of("masked_patch_loss", DTYPES)
def masked_patch_loss(dtype: torch.dtype) -> Iterator[Sample]:
    yield from _samples(Calls(dtype, backward=False))


@samples_of("masked_patch_loss_backward", DTYPES)
def masked_patch_loss_backward(dtype: torch.dtype) -> Iterator[Sample]:
    yield from _samples(Calls(dtype, backward=True))
