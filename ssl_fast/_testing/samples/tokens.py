"""Samples of the token ops."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .base import Sample, samples_of

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float64}


def normal(dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def shuffles(batch: int, length: int) -> Tensor:
    """[batch, length] int64: a permutation in each row."""
    generator = torch.Generator().manual_seed(batch + length)
    return torch.rand(batch, length, generator=generator).argsort(dim=1)


def repeated(batch: int, count: int, length: int) -> Tensor:
    """[batch, count] int64 below `length`, many of them equal."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, length, (batch, count), generator=generator)


@samples_of("gather_tokens", FLOATS)
def gather_tokens(dtype: torch.dtype) -> Iterator[Sample]:
    x = normal(dtype, 3, 7, 20)
    yield Sample("small", (normal(dtype, 2, 5, 3), torch.tensor([[4, 0, 2], [1, 1, 3]])))
    yield Sample("ids of a permutation, a slice", (x, shuffles(3, 7)[:, :4]))
    yield Sample("repeated ids", (x, repeated(3, 30, 7)))
    yield Sample("all equal", (x, torch.full((3, 20), 6)))
    yield Sample("wide rows", (normal(dtype, 2, 4, 1000), repeated(2, 5, 4)))
    yield Sample("one row of one number", (normal(dtype, 1, 1, 1), torch.zeros(1, 1).long()))
    yield Sample("behind a class token", (x[:, 1:], shuffles(3, 6)[:, :2]))
    yield Sample("columns apart", (normal(dtype, 3, 7, 40)[..., ::2], shuffles(3, 7)))
    yield Sample("stride 0", (normal(dtype, 7, 20).expand(3, 7, 20), repeated(3, 9, 7)))
    yield Sample("ids with stride 0", (x, shuffles(1, 7).expand(3, 7)))
    yield Sample("no ids", (x, shuffles(3, 7)[:, :0]))
    yield Sample("no tokens", (x[:, :0], shuffles(3, 7)[:, :0]))
    yield Sample("empty batch", (x[:0], shuffles(0, 4)))
    yield Sample("rows of nothing", (x[..., :0], shuffles(3, 7)))


@samples_of("gather_tokens_backward", FLOATS)
def gather_tokens_backward(dtype: torch.dtype) -> Iterator[Sample]:
    grad = normal(dtype, 3, 6, 20)
    yield Sample("small", (normal(dtype, 2, 3, 3), torch.tensor([[4, 0, 2], [1, 1, 3]]), 5))
    yield Sample("permuted", (grad, shuffles(3, 9)[:, :6], 9))
    yield Sample("many equal", (normal(dtype, 1, 70, 20), repeated(1, 70, 4), 4))
    yield Sample("stride 0", (normal(dtype, 1, 1, 1).expand(3, 6, 20), repeated(3, 6, 4), 4))
    yield Sample("columns apart", (normal(dtype, 3, 6, 40)[..., 1::2], repeated(3, 6, 4), 4))
    yield Sample("rows apart", (normal(dtype, 3, 12, 20)[:, ::2], repeated(3, 6, 4), 4))
    yield Sample("wide rows", (normal(dtype, 1, 5, 1000), repeated(1, 5, 4), 4))
    yield Sample("no ids", (grad[:, :0], shuffles(3, 7)[:, :0], 4))
    yield Sample("no rows", (grad[:, :0], shuffles(3, 7)[:, :0], 0))
    yield Sample("empty batch", (grad[:0], shuffles(0, 6), 7))


@samples_of("restore_tokens", FLOATS)
def restore_tokens(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(
        name: str,
        size: tuple[int, int, int, int] = (3, 2, 6, 20),  # N, K, L, D
        prefix: int = 0,
        positions: bool = True,
        wide: bool = False,
    ) -> Sample:
        batch, kept, length, dim = size
        out = WIDER.get(dtype, dtype) if wide else dtype
        pos = normal(out, prefix + length, dim) if positions else None
        x = normal(dtype, batch, prefix + kept, dim)
        return Sample(name, (x, shuffles(batch, length), normal(out, dim), pos, prefix))

    yield sample("small", (2, 2, 4, 3), prefix=1)
    yield sample("no prefix", (3, 2, 6, 20))
    yield sample("no positions", positions=False, prefix=2)
    yield sample("promoted", wide=True, prefix=1)
    yield sample("promoted, no positions", wide=True, positions=False)
    yield sample("many samples", (35, 2, 9, 37))
    yield sample("wide rows", (2, 3, 4, 1100), prefix=1)
    yield sample("all kept", (2, 5, 5, 8), prefix=1)
    yield sample("none kept", (2, 0, 5, 8), prefix=1)
    yield sample("nothing at all to restore", (2, 0, 0, 8), prefix=1)
    yield sample("none kept, no prefix", (2, 0, 5, 8))
    yield sample("one number", (1, 1, 1, 1))
    yield sample("empty batch", (0, 2, 5, 8), prefix=1)
    x, ids, token, pos, _ = sample("", (3, 2, 6, 40)).args
    yield Sample("rows and ids apart", (x[:, ::2], ids[:, ::2], token, pos[::2], 0))
    yield Sample("columns apart", (x[..., ::2], ids, token[::2], pos[:, ::2], 0))
    yield Sample("stride 0", (x[:1].expand(3, 2, 40), ids, token, pos[:1].expand(6, 40), 0))
    yield Sample("one token in many places", (x, ids // 2, token, pos, 0))


@samples_of("restore_tokens_backward", FLOATS)
def restore_tokens_backward(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(
        name: str,
        grad: Tensor,
        kept: int = 2,
        prefix: int = 1,
        x_dtype: torch.dtype = dtype,
        needs: tuple[bool, bool, bool] = (True, True, True),
    ) -> Sample:
        ids = shuffles(grad.shape[0], grad.shape[1] - prefix)
        return Sample(name, (grad, ids, prefix, kept, x_dtype, *needs))

    grad = normal(dtype, 3, 7, 20)
    yield sample("small", normal(dtype, 2, 4, 3))
    yield sample("no prefix", grad, prefix=0)
    yield sample("of x alone", grad, needs=(True, False, False))
    yield sample("of mask_token alone", grad, needs=(False, True, False))
    yield sample("of pos_embed alone", grad, needs=(False, False, True))
    yield sample("of nothing", grad, needs=(False, False, False))
    yield sample("many samples", normal(dtype, 35, 11, 37))
    yield sample("a large batch", normal(dtype, 600, 3, 5), needs=(False, True, True))
    yield sample("wide rows", normal(dtype, 2, 4, 1100))
    yield sample("stride 0", normal(dtype, 1, 1, 1).expand(3, 7, 20))
    yield sample("columns apart", normal(dtype, 3, 7, 40)[..., ::2])
    yield sample("rows apart", normal(dtype, 3, 14, 20)[:, ::2])
    yield sample("all kept", grad, kept=6)
    yield sample("none kept", grad, kept=0)
    yield sample("empty batch", grad[:0])
    if dtype in (torch.float32, torch.float64):
        yield sample("x in half", grad, x_dtype=torch.float16)
    if dtype == torch.float32:
        yield sample("x in bfloat16", grad, x_dtype=torch.bfloat16)


@samples_of("add_positions", FLOATS)
def add_positions(dtype: torch.dtype) -> Iterator[Sample]:
    tokens = normal(dtype, 3, 4, 20)
    pos = normal(dtype, 6, 20)
    yield Sample(
        "small", (normal(dtype, 2, 2, 3), normal(dtype, 4, 3), torch.tensor([[3, 1], [3, 3]]))
    )
    yield Sample("permuted", (tokens, pos, shuffles(3, 6)[:, :4]))
    wide = WIDER.get(dtype, dtype)
    yield Sample("promoted", (tokens, normal(wide, 6, 20), shuffles(3, 6)[:, :4]))
    yield Sample("rows apart", (normal(dtype, 3, 8, 20)[:, ::2], pos, shuffles(3, 6)[:, :4]))
    yield Sample("columns apart", (tokens[..., ::2], pos[:, 1::2], shuffles(3, 6)[:, :4]))
    yield Sample("repeated ids", (normal(dtype, 9, 30, 5), normal(dtype, 6, 5), repeated(9, 30, 6)))
    yield Sample("no ids", (tokens[:, :0], pos, shuffles(3, 6)[:, :0]))
    yield Sample("empty batch", (tokens[:0], pos, shuffles(0, 4)))


@samples_of("gather_patches", (torch.uint8, *FLOATS))
def gather_patches(dtype: torch.dtype) -> Iterator[Sample]:
    def pixels(*shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(sum(shape))
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(dtype)

    def sample(
        name: str,
        images: Tensor,
        ids: Tensor,
        patch: tuple[int, int] = (4, 4),
        out: torch.dtype = torch.float32,
        normalised: bool = True,
    ) -> Sample:
        channels = images.shape[1]
        wide = torch.float64 if torch.float64 in (dtype, out) else torch.float32
        mean, std = (torch.linspace(*ends, channels, dtype=wide) for ends in ((100, 130), (50, 60)))
        statistics = (mean, std) if normalised else (None, None)
        return Sample(name, (images, ids, *patch, *statistics, out), constants=(4, 5))

    images = pixels(2, 3, 8, 12)  # 2 x 3 patches
    ids = shuffles(2, 6)[:, :3]
    own = dtype if dtype.is_floating_point else torch.float32
    small = torch.tensor([[1, 0], [1, 1]])
    yield sample("small", pixels(2, 2, 2, 4), small, (2, 2), out=own)
    yield sample("to float32", images, ids)
    if dtype != torch.float64:  # Triton's interpreter cannot make one of the other
        yield sample("to bfloat16", images, ids, out=torch.bfloat16)
    yield sample("to float16", images, ids, out=torch.float16)
    yield sample("to float64", images, ids, out=torch.float64)
    yield sample("as they are", images, ids, out=own, normalised=False)
    yield sample("patches of 16", pixels(2, 3, 32, 48), ids, (16, 16))
    yield sample("patches of 14", pixels(1, 1, 28, 28), shuffles(1, 4), (14, 14))
    yield sample("patches of 2 x 3", images, shuffles(2, 16), (2, 3))
    yield sample("patches of a pixel", pixels(1, 2, 3, 5), shuffles(1, 15), (1, 1))
    yield sample("repeated ids", images, repeated(2, 9, 6))
    channels_last = images.to(memory_format=torch.channels_last)
    yield sample("channels last", channels_last, ids)
    yield sample("every second pixel", pixels(2, 3, 16, 24)[..., ::2, 1::2], ids)
    yield sample("unaligned columns", pixels(2, 3, 8, 20)[..., 3:15], ids)
    yield sample("stride 0", pixels(1, 1, 8, 12).expand(2, 3, 8, 12), ids)
    yield sample("no ids", images, ids[:, :0])
    yield sample("empty batch", images[:0], ids[:0])
