"""The twins of mmpretrain's mask generators."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest

from ssl_fast import host
from ssl_fast.nn import BEiTMaskGenerator, SimMIMMaskGenerator

pytest.importorskip("ssl_fast._host", reason="ssl_fast._host was not built")

GENERATORS: list[tuple[Any, tuple[int, int], int]] = [
    (BEiTMaskGenerator(14, 75), (14, 14), 75),
    (BEiTMaskGenerator((6, 20), 40, 3, 9, 0.5, 1.5, compat="mmpretrain"), (6, 20), 40),
    (SimMIMMaskGenerator(), (48, 48), 1408),
    (SimMIMMaskGenerator(224, 32, 16, 0.5), (14, 14), 100),
]


@pytest.mark.parametrize(("generator", "shape", "count"), GENERATORS)
def test_adds_the_mask(generator: Any, shape: tuple[int, int], count: int) -> None:
    for call in (generator, generator.transform):
        results = {"img": "kept"}
        assert call(results) is results
        assert results["img"] == "kept"
        mask = results["mask"]
        assert isinstance(mask, np.ndarray)
        assert (mask.dtype, mask.shape) == (np.int64, shape)
        assert mask.sum() == count
        assert set(np.unique(mask)) == {0, 1}


def test_constructors_are_mmpretrains() -> None:
    def positional(cls: type) -> list[tuple[str, Any]]:
        parameters = inspect.signature(cls).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    empty = inspect.Parameter.empty
    assert positional(BEiTMaskGenerator) == [
        ("input_size", empty),
        ("num_masking_patches", empty),
        ("min_num_patches", 4),
        ("max_num_patches", None),
        ("min_aspect", 0.3),
        ("max_aspect", None),
    ]
    assert positional(SimMIMMaskGenerator) == [
        ("input_size", 192),
        ("mask_patch_size", 32),
        ("model_patch_size", 4),
        ("mask_ratio", 0.6),
    ]


@pytest.mark.parametrize(("generator", "shape", "count"), GENERATORS)
def test_without_a_seed_numpy_rules(generator: Any, shape: tuple[int, int], count: int) -> None:
    np.random.seed(0)
    first, second = (generator({})["mask"] for _ in range(2))
    assert not np.array_equal(first, second)
    np.random.seed(0)
    assert np.array_equal(generator({})["mask"], first)


def test_with_a_seed_the_sample_rules() -> None:
    beit, simmim = BEiTMaskGenerator(14, 75, seed=5), SimMIMMaskGenerator(seed=5)
    ids = np.array([30, 4])
    expected = host.block_mask(2, (14, 14), 75, seed=5, sample_ids=ids)
    for i, index in enumerate(ids):
        assert np.array_equal(beit({"sample_idx": int(index)})["mask"], expected[i])
    expected = host.simmim_mask(2, seed=5, sample_ids=ids)
    assert np.array_equal(simmim({"sample_idx": 4})["mask"], expected[1])
    with pytest.raises(KeyError, match="sample_idx"):
        beit({})


@pytest.mark.parametrize(("generator", "shape", "count"), GENERATORS)
def test_can_be_sent_to_workers(generator: Any, shape: tuple[int, int], count: int) -> None:
    copy = pickle.loads(pickle.dumps(generator))
    assert repr(copy) == repr(generator)
    assert repr(generator).startswith(f"{type(generator).__name__}(input_size=")


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_masked is 197; the grid has 196 cells"):
        BEiTMaskGenerator(14, 197)
    with pytest.raises(ValueError, match="mask_patch_size is 50; expected a divisor of 192"):
        SimMIMMaskGenerator(mask_patch_size=50)
    with pytest.raises(TypeError, match="seed is 'x'"):
        SimMIMMaskGenerator(seed="x")  # type: ignore[arg-type]
