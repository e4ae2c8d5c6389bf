"""lightly's masks and token functions with ours in their place, against lightly's own."""

import functools
import inspect
import random

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.integrations.peers import require

lightly = require("lightly")
from lightly.models import utils  # noqa: E402

from ssl_fast import ops  # noqa: E402
from ssl_fast.integrations import lightly as integration  # noqa: E402

pytestmark = pytest.mark.smoke
NAMES = [
    "get_at_index",
    "mask_at_index",
    "normalize_mean_var",
    "patchify",
    "prepend_class_token",
    "random_block_mask",
    "random_token_mask",
    "repeat_token",
    "set_at_index",
]
SIZES = [(2, 17, 5, 8), (8, 50, 12, 100)]  # small enough for torch's way, and not


@functools.cache
def pairs(name):
    """Ours by import, lightly's patched, and lightly's own."""
    with integration.enable(quiet=True):
        patched = getattr(utils, name)
    with integration.disable():
        original = getattr(utils, name)
    return getattr(integration, name), patched, original


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name):
    found, patched, expected = (
        [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()]
        for function in pairs(name)
    )
    assert found == patched == expected


def test_what_is_replaced():
    for name in NAMES:
        _, patched, original = pairs(name)
        left = name in ("patchify", "prepend_class_token", "repeat_token")
        assert (patched is original) == left


@pytest.mark.parametrize("size", [(0, 9), (3, 1), (4, 17), (20, 65), (1, 700), (1, 66000)])
@pytest.mark.parametrize("ratio", [0.0, 0.6, 0.75, 1.0])
@pytest.mark.parametrize("mask_class_token", [False, True])
def test_random_token_mask_is_lightlys_from_the_same_seed(size, ratio, mask_class_token):
    results = []
    for function in pairs("random_token_mask"):
        torch.manual_seed(3)
        results.append(function(size, ratio, mask_class_token))
        assert all(index.dtype == torch.int64 for index in results[-1])
    noise = torch.rand(size, generator=torch.Generator().manual_seed(3))
    ties = any(len(row.unique()) < len(row) for row in noise)
    for found in results[:2]:
        for index, expected in zip(found, results[2], strict=True):
            assert index.shape == expected.shape
            assert ties or torch.equal(index, expected)


def indices(count, length, kept):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, length, generator=generator).argsort(dim=1)[:, :kept]


def gradients(function, *arguments):
    arguments = [
        a.detach().clone().requires_grad_(a.is_floating_point())
        if isinstance(a, torch.Tensor)
        else a
        for a in arguments
    ]
    result = function(*arguments)
    wanted = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    weight = torch.linspace(-1, 2, result.numel()).view(result.shape)
    return (result.detach(), *torch.autograd.grad((result * weight).sum(), wanted))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_get_set_and_mask_at_index(size, dtype):
    count, length, kept, dim = (*size[:3], size[3] * 8)
    tokens = torch.randn(count, length, dim).to(dtype)
    index = indices(count, length, kept)
    value = torch.randn(count, kept, dim).to(dtype)
    token = torch.randn(1, 1, dim)
    arguments = {
        "get_at_index": (tokens, index),
        "set_at_index": (tokens, index, value),
        "mask_at_index": (tokens, index, token),
    }
    exact = {"rtol": 0, "atol": 0}
    for name, given in arguments.items():
        found, patched, original = pairs(name)
        expected = gradients(original, *given)
        near = exact
        if (
            name == "mask_at_index"
        ):  # the token's gradient is a sum, here and there in another order
            near = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {}
        assert_close(gradients(found, *given), expected, **near)
        assert_close(gradients(patched, *given), expected, **near)


def test_get_at_index_uses_our_kernel(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "ssl_fast.integrations.lightly.tokens.gather_tokens",
        lambda *args: calls.append(args) or ops.gather_tokens(*args),
    )
    tokens, index = torch.randn(8, 50, 100), indices(8, 50, 45)
    integration.get_at_index(tokens, index)
    assert len(calls) == 1


def test_index_functions_take_what_lightlys_take():
    numbers, index = torch.arange(48).view(2, 6, 4), indices(2, 6, 3)
    for name, given in {
        "get_at_index": (numbers, index),
        "set_at_index": (numbers, index, 1),
        "mask_at_index": (numbers, index, torch.tensor([[[7]]])),
    }.items():
        found, patched, original = pairs(name)
        assert torch.equal(found(*given), original(*given))
        assert torch.equal(patched(*given), original(*given))
    found, patched, original = pairs("get_at_index")
    for function in (found, patched, original):
        with pytest.raises((IndexError, RuntimeError)):
            function(torch.randn(2, 6, 4), index + 6)
    for function in pairs("get_at_index"):
        with pytest.raises((RuntimeError, ValueError)):
            function(torch.randn(8, 50, 100), indices(8, 50, 45) + 10)
    for function in pairs("set_at_index"):
        with pytest.raises((IndexError, RuntimeError)):
            function(torch.randn(8, 50, 100), indices(8, 50, 45) + 10, torch.zeros(8, 45, 100))


def test_masked_tokens_may_be_infinite():
    tokens, index = torch.full((2, 6, 4), torch.inf), indices(2, 6, 6)
    assert (integration.mask_at_index(tokens, index, torch.ones(1, 1, 4)) == 1).all()


def test_copies_stay_copies():
    token, tokens = torch.randn(1, 1, 5), torch.randn(3, 4, 5)
    images = torch.randn(2, 3, 32, 32)
    for name, given in {
        "repeat_token": (token, (3, 4)),
        "prepend_class_token": (tokens, token),
        "patchify": (images, 8),
    }.items():
        found, _, original = pairs(name)
        result = found(*given)
        assert torch.equal(result, original(*given))
        assert result.is_contiguous()
        assert result.data_ptr() != given[0].data_ptr()


def test_patchify_of_a_part_of_a_patch():
    with pytest.raises(ValueError, match="30 x 32"):
        integration.patchify(torch.zeros(1, 3, 30, 32), 8)
    assert integration.patchify(torch.zeros(1, 3, 16, 32), 8).shape == (1, 8, 192)


@pytest.mark.parametrize("shape", [(2, 5, 12), (16, 49, 96), (16, 49, 1)])
@pytest.mark.parametrize("dim", [-1, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normalize_mean_var(shape, dim, dtype):
    x = (3 + 2 * torch.randn(shape)).to(dtype)
    x[0, 0] = 1.5  # no variance
    near = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-3}
    found, patched, original = pairs("normalize_mean_var")
    if 0 < x.shape[dim] == 1:
        assert original(x, dim).isnan().all()
        assert patched(x, dim).isnan().all()
        return
    expected = gradients(original, x, dim)
    assert_close(gradients(found, x, dim), expected, **near)
    assert_close(gradients(patched, x, dim, 1e-6), expected, **near)


def drawn(function, count, **options):
    torch.manual_seed(0)
    random.seed(0)
    return torch.cat([function((20, 9, 12), **options) for _ in range(count)]).numpy()


def test_random_block_mask_by_its_law():
    """Frequencies of cells, numbers masked and lengths of runs, of 2,000 masks each."""
    options = {"batch_mask_ratio": 0.6, "min_image_mask_ratio": 0.1, "max_image_mask_ratio": 0.6}
    _, patched, original = pairs("random_block_mask")
    found, expected = drawn(patched, 100, **options), drawn(original, 100, **options)
    assert found.dtype == bool
    assert found.shape == expected.shape == (2000, 9, 12)
    counts = [masks.reshape(2000, -1).sum(axis=1) for masks in (found, expected)]
    assert [(c == 0).sum() for c in counts] == [800, 800]
    masked = [c[c > 0] for c in counts]
    quantiles = [np.quantile(c, np.linspace(0.05, 0.95, 10)) for c in masked]
    assert np.abs(quantiles[0] - quantiles[1]).max() <= 4
    cells = [masks.mean(axis=0) for masks in (found, expected)]
    deviation = np.sqrt(cells[1] * (1 - cells[1]) / 1000)
    assert (np.abs(cells[0] - cells[1]) < 5 * deviation).all()
    borders = [(masks[:, :, 1:] != masks[:, :, :-1]).mean() for masks in (found, expected)]
    assert borders[0] == pytest.approx(borders[1], rel=0.05)
    borders = [(masks[:, 1:] != masks[:, :-1]).mean() for masks in (found, expected)]
    assert borders[0] == pytest.approx(borders[1], rel=0.05)


def test_block_masks_follow_torchs_seed():
    torch.manual_seed(1)
    first = integration.random_block_mask((6, 14, 14))
    torch.manual_seed(1)
    assert torch.equal(integration.random_block_mask((6, 14, 14)), first)
    assert not torch.equal(integration.random_block_mask((6, 14, 14)), first)


def test_block_masks_that_are_lightlys():
    """What is not served is lightly's: drawn from Python's generator."""
    with integration.enable(quiet=True):
        for size, options in (
            ((2, 14, 14), {}),
            ((8, 14, 14), {"max_attempts_per_block": 3}),
        ):
            masks = []
            for _ in range(2):
                random.seed(0)
                masks.append(utils.random_block_mask(size, **options))
            assert torch.equal(*masks)
        with pytest.raises(ValueError, match="max_num_masks_per_block"):
            utils.random_block_mask((8, 4, 4), 1.0, 0.1, 0.2)
        with pytest.raises(ValueError, match="mask_ratio"):
            utils.random_block_mask((8, 14, 14), 0.5, 0.5, 0.1)
    with pytest.raises(ValueError, match="expected 10"):
        integration.random_block_mask((8, 14, 14), max_attempts_per_block=3)
