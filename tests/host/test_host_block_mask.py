"""The data loader's sampler: the op's bits, in any process, without torch below."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ssl_fast import host, ops
from ssl_fast.random import derive_seed

native = pytest.importorskip("ssl_fast._host", reason="ssl_fast._host was not built")


@pytest.mark.parametrize("compat", [None, "mmpretrain"])
@pytest.mark.parametrize(
    ("grid", "num_masked", "options"),
    [
        ((14, 14), 75, {}),
        ((14, 14), 78, {"min_block": 16, "max_block": 40, "min_aspect": 0.2, "max_aspect": 2.0}),
        ((5, 150), 300, {}),
        ((1, 80), 70, {}),
        ((14, 14), 0, {}),
        ((14, 14), 196, {}),
    ],
)
def test_same_bits_as_the_op(
    grid: tuple[int, int], num_masked: int, options: dict[str, Any], compat: str | None
) -> None:
    ids = np.array([5, -1, 2**62, 0])
    seed = derive_seed(1, 2)
    masks = host.block_mask(
        4, grid, num_masked, seed=seed, sample_ids=ids, compat=compat, **options
    )
    assert masks.shape == (4, *grid)
    assert masks.dtype == np.bool_
    expected = ops.block_mask(
        4, grid, num_masked, seed=seed, sample_ids=torch.from_numpy(ids), compat=compat, **options
    )
    assert np.array_equal(masks, expected.numpy())


def test_default_and_strided_ids() -> None:
    masks = host.block_mask(6, (14, 14), 75, seed=-9)
    every_other = host.block_mask(3, (14, 14), 75, seed=-9, sample_ids=np.arange(6)[::2])
    assert np.array_equal(every_other, masks[::2])
    backwards = host.block_mask(6, (14, 14), 75, seed=-9, sample_ids=np.arange(6)[::-1])
    assert np.array_equal(backwards, masks[::-1])
    assert host.block_mask(0, (14, 14), 75, seed=1).shape == (0, 14, 14)


def test_ids_of_other_types_and_shapes_are_refused() -> None:
    for ids, got in [([0, 1], "list"), (np.arange(2.0), "float64"), (torch.arange(2), "int64")]:
        with pytest.raises(TypeError, match=f"sample_ids is .*{got}; expected an int64 array"):
            host.block_mask(2, (14, 14), 75, seed=0, sample_ids=ids)
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(2,\)"):
        host.block_mask(2, (14, 14), 75, seed=0, sample_ids=np.arange(3))


class Masks(Dataset[np.ndarray]):
    """What a user's dataset does: one mask an item, known by its index."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> np.ndarray:
        return host.block_mask(1, (14, 14), 75, seed=3, sample_ids=np.array([index]))[0]


@pytest.mark.parametrize(
    ("workers", "context"), [(0, None), (2, "fork"), pytest.param(1, "spawn", id="spawn")]
)
def test_data_loader(workers: int, context: str | None) -> None:
    """Workers, whatever their number and kind, draw what the op draws for the whole batch."""
    loader = DataLoader(Masks(), batch_size=5, num_workers=workers, multiprocessing_context=context)
    masks = torch.cat(list(loader))
    assert torch.equal(masks, ops.block_mask(24, (14, 14), 75, seed=3))


def test_the_native_module_needs_no_torch() -> None:
    program = f"""
import importlib.util, sys, numpy
spec = importlib.util.spec_from_file_location("_host", {native.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
low, high = -(2**25), 2**25
mask = module.block_mask(1, numpy.arange(2), 14, 14, 75, 4, 75, low, high, False)
assert mask.sum() == 150 and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_the_native_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_built(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", not_built)
    host._native.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=r"_host was not built .*pip install"):
            host.block_mask(1, (14, 14), 75, seed=0)
    finally:
        host._native.cache_clear()


def test_the_native_module_refuses_what_would_leave_its_memory() -> None:
    law = {"height": 14, "width": 14, "num_masked": 75, "min_block": 4, "max_block": 75}
    for wrong in ({"height": 70000}, {"num_masked": 197}, {"min_block": 0}, {"width": -1}):
        with pytest.raises(ValueError, match="out of range"):
            native.block_mask(1, np.arange(2), *{**law, **wrong}.values(), -5, 5, False)
