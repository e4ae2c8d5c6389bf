"""The public token ops: against MAE's own steps, gradients, arguments, dtypes, `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_fast import ops
from ssl_fast._testing.samples.tokens import normal, repeated, shuffles

F64 = torch.float64
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def mae_restore(x: Tensor, ids: Tensor, token: Tensor, pos: Tensor | None, prefix: int) -> Tensor:
    """MAE's decoder input as He et al. (2022) describe it, token by token."""
    kept = x.shape[1] - prefix
    rows = [
        torch.stack([x[n, i] for i in range(prefix)] + [
            x[n, prefix + i] if i < kept else token.to(x.dtype) for i in ids[n].tolist()
        ])
        for n in range(len(x))
    ]  # fmt: skip
    return torch.stack(rows) if pos is None else torch.stack(rows) + pos


def embed_all(images: Tensor, weight: Tensor, bias: Tensor, ids: Tensor, pos: Tensor) -> Tensor:
    """All patches of the normalised images through the convolution, the kept ones gathered."""
    shape = (1, 3, 1, 1)
    mean = torch.tensor(MEAN, dtype=weight.dtype).view(shape)
    std = torch.tensor(STD, dtype=weight.dtype).view(shape)
    x = (images.to(weight.dtype) - mean) / std
    x = F.conv2d(x, weight, bias, stride=weight.shape[2:]).flatten(2).transpose(1, 2) + pos
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[2]))


def photographs(dtype: torch.dtype = torch.uint8, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape or (3, 3, 12, 16), generator=generator).to(dtype)


def embedding(dtype: torch.dtype = F64) -> tuple[Tensor, Tensor, Tensor]:
    """weight, bias and positions for 12 patches of 4 x 4."""
    return normal(dtype, 10, 3, 4, 4), normal(dtype, 10), normal(dtype, 12, 10)


def asking(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.clone().requires_grad_() for tensor in tensors)


def test_restore_is_maes() -> None:
    x, token, pos = asking(normal(F64, 3, 6, 8), normal(F64, 8), normal(F64, 10, 8))
    ids = shuffles(3, 8)
    result = ops.restore_tokens(x, ids, token, pos, num_prefix_tokens=2)
    expected = mae_restore(x, ids, token, pos, 2)
    torch.testing.assert_close(result, expected)
    gradients = (
        torch.autograd.grad(out.square().sum(), (x, token, pos)) for out in (result, expected)
    )
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted)


def test_restore_takes_maes_shapes() -> None:
    x, ids = normal(F64, 3, 4, 8), shuffles(3, 6)
    token, pos = asking(normal(F64, 1, 1, 8), normal(F64, 1, 7, 8))
    result = ops.restore_tokens(x, ids, token, pos, 1)
    assert torch.equal(result, ops.restore_tokens(x, ids, token[0, 0], pos[0], 1))
    result.sum().backward()
    assert token.grad.shape == token.shape
    assert torch.equal(pos.grad, torch.full_like(pos, 3))


def test_restore_inverts_the_choice() -> None:
    x, ids = normal(torch.float32, 3, 9, 8), shuffles(3, 9)
    kept = ops.gather_tokens(x, ids)
    assert torch.equal(ops.restore_tokens(kept, ids.argsort(dim=1), torch.zeros(8)), x)


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.bfloat16, None),
        (torch.bfloat16, torch.bfloat16, torch.float64),
    ],
    ids=str,
)
def test_restore_promotes(dtypes: tuple[Any, ...]) -> None:
    x, token = asking(normal(dtypes[0], 2, 3, 8), normal(dtypes[1], 8))
    pos = normal(dtypes[2], 6, 8).requires_grad_() if dtypes[2] else None
    result = ops.restore_tokens(x, shuffles(2, 6), token, pos)
    wide = torch.promote_types(dtypes[0], dtypes[1])
    assert result.dtype == (torch.promote_types(wide, dtypes[2]) if dtypes[2] else wide)
    result.sum().backward()
    for leaf in (x, token, *([] if pos is None else [pos])):
        assert leaf.grad.dtype == leaf.dtype
    assert torch.equal(token.grad, torch.full((8,), 6, dtype=token.dtype))


def test_unused_gradients_are_not_made() -> None:
    x, token, pos = normal(F64, 2, 3, 8), normal(F64, 8), normal(F64, 6, 8).requires_grad_()
    ops.restore_tokens(x, shuffles(2, 6), token, pos).sum().backward()
    assert torch.equal(pos.grad, torch.full_like(pos, 2))


def test_masking_by_noise_is_maes() -> None:
    (x,) = asking(normal(F64, 3, 8, 4))
    noise = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    kept, mask, ids_restore = ops.random_masking(x, 0.7, noise=noise)
    shuffle = noise.argsort(dim=1)
    expected = x.gather(1, shuffle[:, :2, None].expand(-1, -1, 4))
    assert torch.equal(kept, expected)
    assert torch.equal(ids_restore, shuffle.argsort(dim=1))
    wanted = torch.ones(3, 8).scatter(1, shuffle[:, :2], 0)
    assert mask.dtype == torch.float32
    assert torch.equal(mask, wanted)
    got, wanted = (torch.autograd.grad(out.square().sum(), x)[0] for out in (kept, expected))
    assert torch.equal(got, wanted)


def test_masking_is_random_mask_and_gather() -> None:
    x, sample_ids = normal(torch.bfloat16, 3, 8, 4), torch.tensor([4, 0, 9])
    kept, mask, ids_restore = ops.random_masking(x, 0.5, seed=3, sample_ids=sample_ids)
    ids, *others = ops.random_mask(3, 8, 0.5, seed=3, sample_ids=sample_ids)
    assert torch.equal(kept, ops.gather_tokens(x, ids))
    assert torch.equal(ids_restore, others[0])
    assert torch.equal(mask, others[1])
    torch.manual_seed(0)
    first = ops.random_masking(x, 0.5)[1]
    torch.manual_seed(0)
    assert torch.equal(ops.random_masking(x, 0.5)[1], first)


def test_masked_and_restored() -> None:
    x, token = normal(F64, 3, 8, 4), normal(F64, 4)
    kept, mask, ids_restore = ops.random_masking(x, 0.5, seed=3)
    restored = ops.restore_tokens(kept, ids_restore, token)
    assert torch.equal(restored, torch.where(mask[..., None] == 1, token, x))
    for ratio, count in ((0.0, 8), (1.0, 0)):
        kept, mask, ids_restore = ops.random_masking(x, ratio, seed=3)
        assert kept.shape == (3, count, 4)
        restored = ops.restore_tokens(kept, ids_restore, token)
        assert torch.equal(restored, torch.where(mask[..., None] == 1, token, x))


@pytest.mark.parametrize("dtype", [torch.uint8, F64])
def test_embedding_visible_patches_is_embedding_all(dtype: torch.dtype) -> None:
    images, ids = photographs(dtype), shuffles(3, 12)[:, :5]
    leaves = asking(*embedding())
    if dtype == F64:
        images.requires_grad_()
        leaves = (*leaves, images)
    weight, bias, pos = leaves[:3]
    result = ops.embed_visible_patches(images, weight, bias, ids, pos[None], MEAN, STD)
    expected = embed_all(images, weight, bias, ids, pos)
    torch.testing.assert_close(result, expected)
    gradients = (torch.autograd.grad(out.square().sum(), leaves) for out in (result, expected))
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted)


def test_mean_and_std_as_tensors() -> None:
    weight, bias, pos = embedding(torch.float32)
    images, ids = photographs(), shuffles(3, 12)[:, :5]
    plain = ops.embed_visible_patches(images, weight, bias, ids, pos, MEAN, STD)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD, dtype=F64)
    torch.testing.assert_close(
        ops.embed_visible_patches(images, weight, bias, ids, pos, mean, std), plain
    )
    one = ops.embed_visible_patches(images, weight, None, ids, None, [100.0], [50.0])
    three = ops.embed_visible_patches(images, weight, None, ids, None, [100.0] * 3, [50.0] * 3)
    assert torch.equal(one, three)


def test_embedding_follows_autocast() -> None:
    weight, bias, pos = asking(*embedding(torch.float32))
    images, ids = photographs(), shuffles(3, 12)[:, :5]
    with torch.autocast("cpu", torch.bfloat16):
        projected = ops.embed_visible_patches(images, weight, bias, ids, None, MEAN, STD)
        result = ops.embed_visible_patches(images, weight, bias, ids, pos, MEAN, STD)
    assert projected.dtype == torch.bfloat16
    assert result.dtype == torch.float32
    result.sum().backward()
    assert weight.grad.dtype == torch.float32
    exact = ops.embed_visible_patches(images, weight, bias, ids, pos, MEAN, STD)
    torch.testing.assert_close(result, exact, rtol=0.02, atol=0.1)
    wide = (parameter.double() for parameter in (weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.embed_visible_patches(images, *wide, ids).dtype == F64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_embedding_in_half(dtype: torch.dtype) -> None:
    weight, bias, pos = embedding(dtype)
    images, ids = photographs(), shuffles(3, 12)[:, :5]
    result = ops.embed_visible_patches(images, weight, bias, ids, pos, MEAN, STD)
    assert result.dtype == dtype
    exact = embed_all(images, *(t.double() for t in (weight, bias)), ids, pos.double())
    torch.testing.assert_close(result.double(), exact, rtol=0.02, atol=0.1)


REPEATED, SHUFFLED = repeated(2, 5, 3), shuffles(2, 4)
PUBLIC: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "gather_tokens": (
        lambda x: ops.gather_tokens(x, REPEATED),
        (normal(F64, 2, 3, 4),),
    ),
    "random_masking": (
        lambda x: ops.random_masking(x, 0.5, seed=1)[0],
        (normal(F64, 2, 3, 4),),
    ),
    "restore_tokens": (
        lambda x, token, pos: ops.restore_tokens(x, SHUFFLED, token, pos, 1),
        (normal(F64, 2, 3, 3), normal(F64, 1, 1, 3), normal(F64, 1, 5, 3)),
    ),
    "restore_tokens without positions": (
        lambda x, token: ops.restore_tokens(x, SHUFFLED, token),
        (normal(F64, 2, 2, 3), normal(F64, 3)),
    ),
    "embed_visible_patches": (
        lambda images, weight, bias, pos: ops.embed_visible_patches(
            images, weight, bias, REPEATED, pos, [100.0] * 3, [50.0, 60.0, 70.0]
        ),
        (normal(F64, 2, 3, 4, 4), normal(F64, 5, 3, 2, 2), normal(F64, 5), normal(F64, 4, 5)),
    ),
    "embed_visible_patches without all options": (
        lambda images, weight: ops.embed_visible_patches(images, weight, None, REPEATED),
        (normal(F64, 2, 3, 4, 4), normal(F64, 5, 3, 2, 2)),
    ),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_gradcheck(name: str) -> None:
    function, inputs = PUBLIC[name]
    assert torch.autograd.gradcheck(function, asking(*inputs))


@pytest.mark.parametrize("name", PUBLIC)
def test_compiles_whole(name: str) -> None:
    function, inputs = PUBLIC[name]
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for run in (function, compiled):
        leaves = asking(*inputs)
        out = run(*leaves)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


X = torch.zeros(2, 5, 4)
IDS = torch.zeros(2, 5, dtype=torch.int64)
IMAGES = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
WEIGHT = torch.zeros(4, 3, 4, 4)


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (TypeError, "x is a list", lambda: ops.gather_tokens([1], IDS)),
        (TypeError, "x is torch.int64", lambda: ops.gather_tokens(X.long(), IDS)),
        (ValueError, r"x has shape \(5, 4\)", lambda: ops.gather_tokens(X[0], IDS)),
        (TypeError, "ids is torch.int32", lambda: ops.gather_tokens(X, IDS.int())),
        (ValueError, "2 first", lambda: ops.gather_tokens(X, IDS[:1])),
        (ValueError, "ids is in 5 .. 5; there are 5 tokens", lambda: ops.gather_tokens(X, IDS + 5)),
        (ValueError, "ids is in -1 .. -1", lambda: ops.gather_tokens(X, IDS - 1)),
        (TypeError, "x is torch.int64", lambda: ops.random_masking(X.long(), 0.5)),
        (ValueError, "mask_ratio is 2", lambda: ops.random_masking(X, 2)),
        (ValueError, "mask_token has shape", lambda: ops.restore_tokens(X, IDS, X)),
        (ValueError, "mask_token has shape", lambda: ops.restore_tokens(X, IDS, X[0, 0, :3])),
        (ValueError, "pos_embed has shape", lambda: ops.restore_tokens(X, IDS, X[0, 0], X[0], 1)),
        (ValueError, "prefix_tokens is 6", lambda: ops.restore_tokens(X, IDS, X[0, 0], None, 6)),
        (ValueError, "5 tokens were kept of 2", lambda: ops.restore_tokens(X, IDS[:, :2], X[0, 0])),
        (TypeError, "images is torch.int64",
         lambda: ops.embed_visible_patches(IMAGES.long(), WEIGHT, None, IDS)),
        (ValueError, "for 3 channels; images have 2",
         lambda: ops.embed_visible_patches(IMAGES[:, 1:], WEIGHT, None, IDS)),
        (ValueError, "not a multiple of patches",
         lambda: ops.embed_visible_patches(IMAGES[..., 1:], WEIGHT, None, IDS)),
        (ValueError, "there are 4 patches",
         lambda: ops.embed_visible_patches(IMAGES, WEIGHT, None, IDS + 4)),
        (ValueError, "expected both or neither",
         lambda: ops.embed_visible_patches(IMAGES, WEIGHT, None, IDS, mean=MEAN)),
        (ValueError, "std has 2 elements",
         lambda: ops.embed_visible_patches(IMAGES, WEIGHT, None, IDS, mean=MEAN, std=[1.0, 2.0])),
        (ValueError, "bias is",
         lambda: ops.embed_visible_patches(IMAGES, WEIGHT, torch.zeros(3), IDS)),
        (ValueError, "pos_embed has shape",
         lambda: ops.embed_visible_patches(IMAGES, WEIGHT, None, IDS, torch.zeros(5, 4))),
    ],
)  # fmt: skip
def test_says_what_is_wrong(error: type[Exception], match: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=match):
        call()
