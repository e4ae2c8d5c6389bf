"""iBOT's masks of a batch: DINOv2's counts and outputs, the law of its blocks, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ssl_fast import host, ops
from ssl_fast._dispatch import OPS, backends
from ssl_fast.ops.masks import arguments
from tests.ops.masks.upstream import (
    difference_of_counts,
    difference_of_frequencies,
    edges,
    sample_blocks,
    too_far,
)
from tests.ops.test_every_op import CPU_BACKENDS, serving

GRID = (8, 8)


def law_of(count: int, *options: Any, **named: Any) -> arguments.IbotLaw:
    defaults = {"min_block": 4, "max_block": None, "min_aspect": 0.3, "max_aspect": None}
    return arguments.ibot_law(count, GRID, *options, **{**defaults, **named})


@pytest.mark.parametrize("padded", [False, True])
def test_outputs_are_those_of_the_collate(padded: bool) -> None:
    batch = ops.ibot_mask(20, GRID, (0.1, 0.5), 0.5, padded=padded, seed=1)
    assert batch.mask.shape == (20, 64)
    assert batch.mask.dtype == torch.bool
    counts = batch.mask.sum(dim=1)
    assert int((counts > 0).sum()) == 10
    expected = batch.mask.flatten().nonzero()[:, 0]
    weights = (1 / counts.clamp(min=1.0))[:, None].expand_as(batch.mask)[batch.mask]
    total = len(expected)
    assert batch.num_masked.tolist() == [total]
    assert batch.indices.dtype == torch.int64
    assert batch.weights.dtype == torch.float32
    assert torch.equal(batch.indices[:total], expected)
    assert torch.equal(batch.weights[:total], weights)
    length = batch.upper_bound if padded else total
    assert len(batch.indices) == len(batch.weights) == length
    assert not batch.indices[total:].any()
    assert not batch.weights[total:].any()


def test_upper_bound_is_the_collates() -> None:
    for count, ratio, probability in [(128, (0.1, 0.5), 0.5), (7, (0.25, 0.75), 1.0)]:
        masked = int(count * probability)
        ends = np.linspace(*ratio, masked + 1)[1:]
        assert law_of(count, ratio, probability).upper_bound == sum(
            int(64 * end + 1e-9) for end in ends
        )
    for seed in range(20):
        batch = ops.ibot_mask(8, GRID, (0.3, 0.9), 0.9, min_block=1, seed=seed)
        assert len(batch.indices) <= batch.upper_bound


@pytest.mark.parametrize("probability", [0, 0.1, 0.5, 1])
def test_as_many_crops_as_asked_for(probability: float) -> None:
    mask = ops.ibot_mask(9, GRID, (0.2, 0.4), probability, seed=3).mask
    assert int(mask.any(dim=1).sum()) == int(9 * probability)


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_ratios_are_spread_over_the_slices(name: str) -> None:
    """Single cells are always found, so that each crop has the number that it asks for."""
    options: dict[str, Any] = {"min_block": 1, "max_block": 1}
    with serving(name, "ibot_mask"):
        mask = ops.ibot_mask(40, GRID, (0.1, 0.3), 1, seed=5, **options).mask
    counts = mask.sum(dim=1).sort().values
    low, high = 6.4, 19.2
    edges_of_slices = low + (high - low) * torch.arange(41) / 40
    assert (counts >= edges_of_slices[:-1].floor() - 3).all()  # ten failures end it early
    assert (counts <= edges_of_slices[1:].floor()).all()
    assert (counts >= edges_of_slices[:-1].floor()).float().mean() > 0.8


def test_depends_on_the_order_of_the_batch_alone() -> None:
    ids = torch.randperm(30, generator=torch.Generator().manual_seed(0)) - 9
    order = ids.argsort()
    first = ops.ibot_mask(30, GRID, seed=2, sample_ids=ids).mask
    second = ops.ibot_mask(30, GRID, seed=2, sample_ids=ids[order]).mask
    assert torch.equal(first[order], second)
    assert not torch.equal(first, ops.ibot_mask(30, GRID, seed=3, sample_ids=ids).mask)


def test_edges_of_the_range() -> None:
    empty = ops.ibot_mask(0, GRID, seed=1)
    assert (empty.mask.shape, empty.upper_bound, len(empty.indices)) == ((0, 64), 0, 0)
    assert len(ops.ibot_mask(0, GRID, seed=1, padded=True).indices) == 0
    assert not ops.ibot_mask(4, (1, 30), (0.5, 0.5), 1, seed=1).mask.any()  # no block fits
    assert not ops.ibot_mask(4, (1, 1), (1, 1), 1, min_block=1, seed=1).mask.any()
    assert ops.ibot_mask(2, (256, 256), (0.3, 0.3), 1, seed=1).mask.sum(dim=1).min() > 15000


def test_law_of_masks() -> None:
    """DINOv2's blocks, ten tries in a row, at ratios spread over the slices."""
    batch, batches = 16, 2500
    law = law_of(batch, (0.1, 0.5), 0.5)
    op = OPS["ibot_mask"].overload
    ids = torch.arange(batch * batches).view(batches, batch)
    ours = torch.cat([op(torch.tensor([1]), part, *law) for part in ids]).numpy()
    masked = ours.any(axis=(1, 2))
    assert masked.sum() == batches * 8  # a masked crop asks for 6 cells or more
    # Which crops are masked: any of the batch.
    places = masked.reshape(batches, batch).sum(axis=0)
    assert not too_far(float(((places - batches / 2) ** 2 / (batches / 4)).sum()), batch)
    rng = np.random.default_rng(0)
    bounds = np.linspace(0.1, 0.5, 9)
    ratio = rng.uniform(np.tile(bounds[:-1], batches), np.tile(bounds[1:], batches))
    block = arguments.BlockLaw(*GRID, 0, law.min_block, law.max_block, *law[-2:], False)
    theirs = sample_blocks(block, (64 * ratio).astype(int), seed=6, max_failed=10)
    ours = ours[masked]
    assert not too_far(*difference_of_frequencies(ours, theirs))
    assert not too_far(*difference_of_counts(edges(ours), edges(theirs)))
    sums = [mask.sum(axis=(1, 2)) for mask in (ours, theirs)]
    assert not too_far(*difference_of_counts(*sums))
    shorter = sample_blocks(block, (64 * ratio).astype(int), seed=6, max_failed=2)
    assert too_far(*difference_of_counts(sums[0], shorter.sum(axis=(1, 2))))


# ---- Errors, the same in ops and host -----------------------------------------------------------

ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_samples": -1}, ValueError, "num_samples is -1"),
    ({"grid": 14}, TypeError, r"grid is 14; expected \(height, width\)"),
    ({"mask_ratio": 0.5}, TypeError, r"mask_ratio is 0.5; expected \(least, greatest\)"),
    ({"mask_ratio": (0.5, 0.1)}, ValueError, "accepted are 0 to 1, the least first"),
    ({"mask_ratio": (0.5, 1.1)}, ValueError, r"mask_ratio is \(0.5, 1.1\)"),
    ({"mask_ratio": (0.5, float("nan"))}, ValueError, "mask_ratio is"),
    ({"mask_probability": 1.5}, ValueError, "mask_probability is 1.5; accepted are 0 to 1"),
    ({"min_block": 65}, ValueError, "min_block is 65; larger than the grid, 64 cells"),
    ({"max_block": 3}, ValueError, r"max_block is 3; expected min_block \(4\) or more"),
    ({"max_aspect": 0.1}, ValueError, "aspects are 0.3 to 0.1"),
]


@pytest.mark.parametrize("function", [ops.ibot_mask, host.ibot_mask], ids=["ops", "host"])
@pytest.mark.parametrize(("wrong", "error", "message"), ERRORS)
def test_errors(function: Any, wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        function(**{"num_samples": 4, "grid": GRID, "seed": 0, **wrong})


def test_kernels_refuse_what_would_leave_their_memory() -> None:
    """The second fence: calls past the public function."""
    if reason := backends.reason(OPS["ibot_mask"], "compiled", "cpu"):
        pytest.skip(reason)
    law = law_of(4, (0.1, 0.5), 0.5)
    wrong: list[dict[str, int]] = [{"num_samples_masked": 5}, {"low": -1}, {"high": 65 << 15}]
    for fields in wrong:
        with pytest.raises(RuntimeError, match="out of range"):
            OPS["ibot_mask"].overload(torch.tensor([1]), torch.arange(4), *law._replace(**fields))
