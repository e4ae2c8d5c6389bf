"""SimMIM's masks: counts, squares, the law, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ssl_fast import host, ops
from tests.ops.masks.upstream import difference_of_counts, difference_of_frequencies, edges, too_far


def test_defaults() -> None:
    mask = ops.simmim_mask(6, seed=1)
    assert mask.shape == (6, 48, 48)
    assert mask.dtype == torch.bool
    assert mask.is_contiguous()
    assert mask.sum(dim=(1, 2)).tolist() == [1408] * 6


@pytest.mark.parametrize("ratio", [0, 0.01, 0.5, 0.6, 1])
@pytest.mark.parametrize("sizes", [(192, 32, 4), (224, 32, 16), (64, 64, 16), (30, 5, 5)])
def test_whole_squares(sizes: tuple[int, int, int], ratio: float) -> None:
    mask = ops.simmim_mask(5, *sizes, ratio, seed=3)
    side, scale = sizes[0] // sizes[1], sizes[1] // sizes[2]
    coarse = mask.view(5, side, scale, side, scale).transpose(2, 3).flatten(3)
    assert (coarse == coarse[..., :1]).all()
    counts = coarse[..., 0].sum(dim=(1, 2))
    assert counts.tolist() == [int(np.ceil(side**2 * ratio))] * 5


def test_any_split_of_the_batch() -> None:
    ids = torch.randperm(30, generator=torch.Generator().manual_seed(0)) - 9
    whole = ops.simmim_mask(30, seed=3, sample_ids=ids)
    parts = [ops.simmim_mask(len(part), seed=3, sample_ids=part) for part in ids.split([7, 0, 23])]
    assert torch.equal(torch.cat(parts), whole)
    assert ops.simmim_mask(0).shape == (0, 48, 48)


def test_law() -> None:
    """mmpretrain takes the first of a permutation."""
    ours = ops.simmim_mask(40_000, 20, 4, 4, 0.6, seed=2).numpy()
    rng = np.random.default_rng(0)
    order = rng.permuted(np.tile(np.arange(25), (20_000, 1)), axis=1)
    theirs = np.zeros((20_000, 25), bool)
    np.put_along_axis(theirs, order[:, :15], True, axis=1)
    theirs = theirs.reshape(-1, 5, 5)
    assert not too_far(*difference_of_frequencies(ours, theirs))
    assert not too_far(*difference_of_counts(edges(ours), edges(theirs)))


ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_samples": -1}, ValueError, "num_samples is -1"),
    ({"input_size": 0}, ValueError, "input_size is 0; expected 1 or more"),
    ({"input_size": (192, 192)}, TypeError, "input_size is"),
    ({"mask_patch_size": 50}, ValueError, "mask_patch_size is 50; expected a divisor of 192"),
    ({"model_patch_size": 5}, ValueError, "model_patch_size is 5; expected a divisor of 32"),
    ({"mask_ratio": 1.2}, ValueError, "mask_ratio is 1.2; accepted are 0 to 1"),
    ({"input_size": 2048, "mask_patch_size": 4}, ValueError, "accepted are at most 65536 cells"),
]


@pytest.mark.parametrize("module", [ops, host], ids=["ops", "host"])
@pytest.mark.parametrize(("wrong", "error", "message"), ERRORS)
def test_errors(module: Any, wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        module.simmim_mask(**{"num_samples": 2, "seed": 0, **wrong})
