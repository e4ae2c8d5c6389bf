"""Tubes and cubes: counts, frames, independence of the batch, the laws, errors."""

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

CLIP = (8, 7, 7)


# ---- Tubes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0, 0.5, 0.75, 0.9, 1])
def test_random_tubes_are_those_of_random_mask(ratio: float) -> None:
    mask = ops.tube_mask(5, (4, 6, 7), ratio, seed=2)
    assert mask.shape == (5, 4, 6, 7)
    assert mask.dtype == torch.bool
    assert (mask == mask[:, :1]).all()
    assert mask[:, 0].sum(dim=(1, 2)).tolist() == [int(ratio * 42)] * 5  # VideoMAE's count
    # int(L * (1 - r)) of random_mask rounds the other way: here the count is asked for.
    kept = 42 - int(ratio * 42)
    order = ops.random_mask(5, 42, 0, seed=2)[1]
    assert torch.equal(mask[:, 0].flatten(1), order >= kept)


@pytest.mark.parametrize("ratio", [0, 0.3, 0.5, 1])
def test_block_tubes_are_those_of_block_mask(ratio: float) -> None:
    count = round(ratio * 42)  # SlowFast's
    mask = ops.tube_mask(5, (4, 6, 7), ratio, kind="block", seed=2)
    expected = ops.block_mask(5, (6, 7), count, max(1, count // 5), seed=2)
    assert torch.equal(mask, expected[:, None].expand(5, 4, 6, 7))


def test_counts_are_those_of_python_doubles() -> None:
    """VideoMAE, SlowFast: the ratio times the whole number of patches."""
    for ratio in (0.07, 0.29, 0.57, 0.9, 1.4 / 3):
        grid = (5, 10, 21)
        counts = [
            ops.tube_mask(1, grid, ratio, kind=kind, seed=1)[0, 0].sum()
            for kind in ("random", "block")
        ]
        assert counts == [int(ratio * 210), round(ratio * 210)]
        law = arguments.cube_law(grid, ratio, None, None, 0.3, None)
        assert law.num_masked == round(1050 * ratio)


def test_law_of_random_tubes() -> None:
    """VideoMAE shuffles zeros and ones: cells, and pairs of cells."""
    ours = ops.tube_mask(40_000, (2, 4, 4), 0.7, seed=1)[:, 0].numpy()
    rng = np.random.default_rng(3)
    frame = np.repeat([False, True], [5, 11])
    theirs = rng.permuted(np.tile(frame, (20_000, 1)), axis=1).reshape(-1, 4, 4)
    assert not too_far(*difference_of_frequencies(ours, theirs))
    assert not too_far(*difference_of_counts(edges(ours), edges(theirs)))


# ---- Cubes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CPU_BACKENDS, "triton"])
@pytest.mark.parametrize(
    ("grid", "ratio"), [(CLIP, 0.4), ((1, 5, 5), 1), ((3, 1, 9), 0.5), ((1, 1, 1), 1)]
)
def test_at_most_what_is_asked_for(name: str, grid: tuple[int, int, int], ratio: float) -> None:
    with serving(name, "cube_mask"):
        mask = ops.cube_mask(2, grid, ratio, seed=1)
    assert mask.shape == (2, *grid)
    counts = mask.sum(dim=(1, 2, 3))
    assert (counts <= round(ratio * np.prod(grid))).all()
    if min(grid[1:]) == 1:
        assert counts.sum() == 0  # no block is smaller than such a frame in both directions
    if grid == CLIP:
        assert (counts > 0).all()


def test_largest_grid_of_cubes() -> None:
    mask = ops.cube_mask(1, (16, 64, 64), 0.4, seed=1)
    assert 0 < int(mask.sum()) <= round(0.4 * 65536)


@pytest.mark.parametrize("name", CPU_BACKENDS[1:])
def test_any_split_of_the_batch(name: str) -> None:
    ids = torch.randperm(40, generator=torch.Generator().manual_seed(0)) - 20
    options: dict[str, Any] = {"seed": 3}
    with serving(name, "cube_mask"):
        whole = ops.cube_mask(40, CLIP, 0.4, sample_ids=ids, **options)
        parts = [
            ops.cube_mask(len(part), CLIP, 0.4, sample_ids=part, **options)
            for part in ids.split([1, 8, 0, 31])
        ]
    assert torch.equal(torch.cat(parts), whole)
    assert len(whole.flatten(1).unique(dim=0)) == 40


def test_law_of_cubes() -> None:
    grid, ratio = (4, 7, 6), 0.4
    law = arguments.cube_law(grid, ratio, None, None, 0.3, None)
    frame = arguments.BlockLaw(*law[1:], exclusive=False)
    ours = ops.cube_mask(40_000, grid, ratio, seed=4).numpy()
    counts = np.full(20_000, law.num_masked)
    theirs = sample_blocks(frame, counts, seed=5, max_failed=100, frames=4)
    assert not too_far(*difference_of_frequencies(ours, theirs))
    for statistic in (
        lambda mask: mask.sum(axis=(1, 2, 3)),
        lambda mask: (mask[:, 1:] != mask[:, :-1]).sum(axis=(1, 2, 3)),  # durations
        lambda mask: edges(mask.reshape(len(mask), -1, 6)),
    ):
        assert not too_far(*difference_of_counts(statistic(ours), statistic(theirs)))
    fewer = sample_blocks(frame, counts, seed=5, max_failed=5, frames=4)
    assert too_far(*difference_of_counts(ours.sum(axis=(1, 2, 3)), fewer.sum(axis=(1, 2, 3))))


# ---- Errors, the same in ops and host -----------------------------------------------------------

ERRORS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("both", {"num_samples": -1}, ValueError, "num_samples is -1"),
    ("both", {"grid": (14, 14)}, TypeError, r"grid is \(14, 14\); expected \(frames, height, wid"),
    ("both", {"grid": (0, 4, 4)}, ValueError, "frames is 0; expected 1 or more"),
    ("both", {"grid": (2, 256, 256)}, ValueError, "grid is 2 x 256 x 256; accepted are at most"),
    ("both", {"mask_ratio": 1.5}, ValueError, "mask_ratio is 1.5; accepted are 0 to 1"),
    ("both", {"mask_ratio": None}, TypeError, "mask_ratio is None"),
    ("tube", {"kind": "cube"}, ValueError, "kind is 'cube'; accepted are 'random' and 'block'"),
    ("cube", {"min_block": 50}, ValueError, "min_block is 50; larger than the grid, 49 cells"),
    ("cube", {"min_block": 9, "max_block": 8}, ValueError, "max_block is 8"),
    ("cube", {"min_aspect": 0.0}, ValueError, "min_aspect is 0.0"),
]


@pytest.mark.parametrize("module", [ops, host], ids=["ops", "host"])
@pytest.mark.parametrize(("kind", "wrong", "error", "message"), ERRORS)
def test_errors(
    module: Any, kind: str, wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    right = {"num_samples": 2, "grid": CLIP, "mask_ratio": 0.5, "seed": 0}
    for name in ("tube", "cube") if kind == "both" else (kind,):
        with pytest.raises(error, match=message):
            getattr(module, f"{name}_mask")(**{**right, **wrong})


def test_kernels_refuse_what_would_leave_their_memory() -> None:
    """The second fence: calls past the public function."""
    if reason := backends.reason(OPS["cube_mask"], "compiled", "cpu"):
        pytest.skip(reason)
    law = arguments.cube_law(CLIP, 0.4, None, None, 0.3, None)
    for wrong in ({"frames": 0}, {"frames": 70000}, {"num_masked": 393}, {"max_block": 50}):
        with pytest.raises(RuntimeError, match="out of range"):
            OPS["cube_mask"].overload(torch.tensor([1]), torch.arange(2), *law._replace(**wrong))
