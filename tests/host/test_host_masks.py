"""The data loader's samplers: the ops' bits, in workers of any number and in other processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ssl_fast import host, ops

pytest.importorskip("ssl_fast._host", reason="ssl_fast._host was not built")

# What each sampler is called with, beside the number of samples, seed and ids.
CALLS: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "block_mask": [(((14, 14), 75), {})],
    "random_mask": [((196, 0.75), {}), ((1, 0.5), {}), ((5, 1), {}), ((300, 0), {})],
    "simmim_mask": [((), {}), ((64, 16, 16, 0.3), {})],
    "tube_mask": [(((8, 14, 14), 0.9), {}), (((4, 7, 9), 0.4), {"kind": "block"})],
    "cube_mask": [(((8, 7, 7), 0.4), {}), (((2, 1, 9), 0.5), {})],
    "ibot_mask": [(((16, 16),), {}), (((8, 8), (0.3, 0.9), 1), {"min_block": 2})],
    "multiblock_mask": [(((14, 14),), {}), (((9, 14), 2, 2), {"compat": "ijepa"})],
}
# Those whose masks do not depend on the batch.
SINGLE = [name for name in CALLS if name not in ("ibot_mask", "multiblock_mask")]


def arrays_of(result: Any) -> list[np.ndarray]:
    """Arrays and numbers of a result, whichever way they are packed."""
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in arrays_of(part)]
    return [np.asarray(result).reshape(-1) if np.ndim(result) < 2 else np.asarray(result)]


@pytest.mark.parametrize(("name", "call"), [(name, call) for name in CALLS for call in CALLS[name]])
def test_same_bits_as_the_op(name: str, call: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    args, options = call
    ids = np.array([5, -1, 2**62, 0, 7, 8, 9])[::-1]
    for given in (ids, None):
        tensor = None if given is None else torch.from_numpy(given.copy())
        ours = getattr(host, name)(7, *args, seed=11, sample_ids=given, **options)
        expected = getattr(ops, name)(7, *args, seed=11, sample_ids=tensor, **options)
        pairs = list(zip(arrays_of(ours), arrays_of(expected), strict=True))
        assert pairs
        for array, wanted in pairs:
            assert array.dtype == wanted.dtype
            assert np.array_equal(array, wanted)


# ---- Data-loading workers and other processes ---------------------------------------------------


def draw(name: str, ids: np.ndarray) -> list[np.ndarray]:
    args, options = CALLS[name][0]
    return arrays_of(getattr(host, name)(len(ids), *args, seed=3, sample_ids=ids, **options))


class Masks(Dataset[list[np.ndarray]]):
    """What a user's dataset does: all masks of one item, known by its index."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> list[np.ndarray]:
        parts = (draw(name, np.array([index])) for name in SINGLE)
        return [array[0] for arrays in parts for array in arrays]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_data_loader(workers: int) -> None:
    batches = list(DataLoader(Masks(), batch_size=5, num_workers=workers))
    whole = [array for name in SINGLE for array in draw(name, np.arange(12))]
    for column, expected in zip(zip(*batches, strict=True), whole, strict=True):
        assert np.array_equal(torch.cat(column).numpy(), expected)


class Collate:
    """What DINOv2 and I-JEPA do: masks are drawn for the batch, when it is collated."""

    def __call__(self, ids: list[int]) -> list[np.ndarray]:
        return draw("ibot_mask", np.array(ids)) + draw("multiblock_mask", np.array(ids))


@pytest.mark.parametrize("workers", [0, 2])
def test_collate_in_workers(workers: int) -> None:
    loader: Any = DataLoader(range(10), batch_size=5, num_workers=workers, collate_fn=Collate())
    for batch, ids in zip(loader, (range(5), range(5, 10)), strict=True):
        for array, expected in zip(batch, Collate()(list(ids)), strict=True):
            assert np.array_equal(array, expected)


def draw_as_rank(rank: int, ranks: int) -> list[np.ndarray]:
    """The masks of a rank's share of 24 samples, by the ops: a process of its own."""
    ids = torch.arange(24).chunk(ranks)[rank]
    results = []
    for name in SINGLE:
        args, options = CALLS[name][0]
        result = getattr(ops, name)(len(ids), *args, seed=3, sample_ids=ids, **options)
        results += arrays_of(result)
    return results


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes(ranks: int) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(ranks, mp_context=context) as pool:
        shares = list(pool.map(draw_as_rank, range(ranks), [ranks] * ranks))
    whole = [array for name in SINGLE for array in draw(name, np.arange(24))]
    for column, expected in zip(zip(*shares, strict=True), whole, strict=True):
        assert np.array_equal(np.concatenate(column), expected)


@pytest.mark.parametrize("name", CALLS)
def test_ids_of_other_types_are_refused(name: str) -> None:
    function: Callable[..., Any] = getattr(host, name)
    with pytest.raises(TypeError, match=r"sample_ids is list; expected an int64 array"):
        function(2, *CALLS[name][0][0], seed=0, sample_ids=[0, 1])
    with pytest.raises(TypeError, match=r"seed is 0\.5"):
        function(2, *CALLS[name][0][0], seed=0.5)


def test_a_law_that_was_checked_before_lets_no_other_type_through():
    host.block_mask(1, (14, 14), 75, seed=3)
    for grid, num_masked in (((14, 14), 75.0), ((14.0, 14), 75), ((14, 14), [75])):
        with pytest.raises(TypeError, match="expected an int"):
            host.block_mask(1, grid, num_masked, seed=3)
