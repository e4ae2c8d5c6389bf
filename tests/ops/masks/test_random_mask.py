"""Random masks beyond the generic tests: MAE's argsorts, sizes, batch splits, the law, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_fast import host, ops
from ssl_fast._dispatch import OPS, backends
from tests.ops.test_every_op import CPU_BACKENDS, serving

BACKENDS = [*(name for name in CPU_BACKENDS if name != "emulated"), "triton"]


def mae(noise: Tensor, kept: int) -> tuple[Tensor, ...]:
    """The lines of MAE's random_masking that this op stands for, with ties by index."""
    ids_shuffle = torch.argsort(noise, dim=1, stable=True)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    mask = torch.ones(noise.shape)
    mask[:, :kept] = 0
    return ids_shuffle[:, :kept], ids_restore, torch.gather(mask, 1, ids_restore)


def noises() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(20, 196, generator=generator)
    nan = uniform.clone()
    nan[uniform < 0.2] = torch.nan
    nan[uniform > 0.9] = -torch.nan
    nan[(uniform > 0.4) & (uniform < 0.5)] = -torch.inf
    return {
        "uniform": uniform,
        "descending": torch.arange(300.0).flip(0).expand(2, 300),
        "ties": (uniform * 8).round() - 4,  # with zeros of both signs
        "nan": nan,
        "weighted": -uniform.log() / uniform.flip(0),
        "float64 that agree in float32": 1 + uniform.double() * 2**-40,
        "float64 that agree in the lower half": (uniform * 9).round().double(),
    }


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("kind", noises())
def test_equals_maes_argsorts(name: str, kind: str) -> None:
    noise = noises()[kind]
    if name == "triton":  # its interpreter sorts slowly
        noise = noise[:1, :120]
    with serving(name, "random_mask_from_noise"):
        results = ops.random_mask(*noise.shape, 0.75, noise=noise)
    for result, expected in zip(results, mae(noise, noise.shape[1] // 4), strict=True):
        assert result.dtype == expected.dtype
        assert torch.equal(result, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_host_takes_noise(dtype: Any) -> None:
    noise = np.random.default_rng(0).normal(size=(4, 300)).astype(dtype)[:, ::2]
    expected = mae(torch.from_numpy(noise.copy()), 60)
    for result, tensor in zip(host.random_mask(4, 150, 0.6, noise=noise), expected, strict=True):
        assert np.array_equal(result, tensor.numpy())


# ---- Sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("length", [1, 2, 3, 64, 127, 196, 1000])
@pytest.mark.parametrize("ratio", [0, 0.3, 1])
def test_outputs_belong_together(name: str, length: int, ratio: float) -> None:
    if name == "triton" and length > 200:
        pytest.skip("its interpreter sorts slowly")
    with serving(name, "random_mask"):
        check_consistent(*ops.random_mask(2, length, ratio, seed=1), length, ratio)


@pytest.mark.parametrize("ratio", [0, 0.75, 1])
def test_longest(ratio: float) -> None:
    results = ops.random_mask(2, 65536, ratio, seed=1)
    check_consistent(*results, 65536, ratio)
    for array, tensor in zip(host.random_mask(2, 65536, ratio, seed=1), results, strict=True):
        assert np.array_equal(array, tensor.numpy())
    with serving("reference", "random_mask"):
        for result, expected in zip(results, ops.random_mask(2, 65536, ratio, seed=1), strict=True):
            assert torch.equal(result, expected)


def check_consistent(
    ids_keep: Tensor, ids_restore: Tensor, mask: Tensor, length: int, ratio: float
) -> None:
    kept = int(length * (1 - ratio))
    count = len(ids_keep)
    assert ids_keep.shape == (count, kept)
    order = ids_restore.argsort(dim=1)
    assert torch.equal(order.sort(dim=1).values, torch.arange(length).expand(count, length))
    assert torch.equal(order[:, :kept], ids_keep)
    assert torch.equal(mask, (ids_restore >= kept).float())


def test_counts_are_those_of_python_doubles() -> None:
    for length, ratio in [(196, 0.75), (10, 0.9), (100, 0.43), (14, 1 / 7)]:
        assert ops.random_mask(1, length, ratio, seed=0)[0].shape[1] == int(length * (1 - ratio))


def test_no_samples() -> None:
    for results in (ops.random_mask(0, 196, 0.75), host.random_mask(0, 196, 0.75, seed=1)):
        assert [tuple(part.shape) for part in results] == [(0, 49), (0, 196), (0, 196)]


# ---- The same bits everywhere -------------------------------------------------------------------


@pytest.mark.parametrize("name", BACKENDS)
def test_any_split_of_the_batch(name: str) -> None:
    count = 40 if name != "triton" else 4  # its interpreter sorts slowly
    ids = torch.randperm(count, generator=torch.Generator().manual_seed(0)) - 2
    with serving(name, "random_mask"):
        whole = ops.random_mask(count, 60, 0.75, seed=3, sample_ids=ids)
        parts = [
            ops.random_mask(len(part), 60, 0.75, seed=3, sample_ids=part)
            for part in ids.split([1, 2, 0, count - 3])
        ]
    on_host = host.random_mask(count, 60, 0.75, seed=3, sample_ids=ids.numpy())
    for i, result in enumerate(whole):
        assert torch.equal(torch.cat([part[i] for part in parts]), result)
        assert np.array_equal(on_host[i], result.numpy())


def test_seeds_and_ids_matter() -> None:
    first = ops.random_mask(64, 196, 0.5, seed=3)[1]
    assert len(first.unique(dim=0)) == 64
    assert (ops.random_mask(64, 196, 0.5, seed=3 + 2**32)[1] != first).any(dim=1).all()
    high_ids = torch.arange(64) + (1 << 32)
    other = ops.random_mask(64, 196, 0.5, seed=3, sample_ids=high_ids)[1]
    assert (other != first).any(dim=1).all()


def test_without_a_seed_torch_rules() -> None:
    torch.manual_seed(0)
    first, second = (ops.random_mask(2, 196, 0.5)[1] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(ops.random_mask(2, 196, 0.5)[1], first)


def test_the_public_function_compiles_once_for_all_seeds() -> None:
    compiled = torch.compile(
        lambda seed: ops.random_mask(4, 196, 0.75, seed=seed), fullgraph=True, backend="aot_eager"
    )
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in (1, 2):
            for result, expected in zip(
                compiled(torch.tensor([seed])),
                ops.random_mask(4, 196, 0.75, seed=seed),
                strict=True,
            ):
                assert torch.equal(result, expected)


# ---- The law: every place is equally likely -----------------------------------------------------


def test_law() -> None:
    """Of all places of a token in the order, and of pairs of neighbouring tokens."""
    count, length = 40_000, 12
    ids_restore = ops.random_mask(count, length, 0.5, seed=9)[1]
    for token in range(length):
        places = torch.bincount(ids_restore[:, token], minlength=length)
        assert not too_far(places, count / length)
    for token in range(length - 1):
        pairs = ids_restore[:, token] * length + ids_restore[:, token + 1]
        counts = torch.bincount(pairs, minlength=length**2).view(length, length)
        assert counts.diagonal().sum() == 0
        apart = ~torch.eye(length, dtype=torch.bool)
        assert not too_far(counts[apart], count / length / (length - 1))


def too_far(counts: Tensor, expected: float) -> bool:
    """Whether chi-square is more than 5 standard deviations above its mean."""
    freedom = counts.numel() - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return bool(statistic > freedom + 5 * (2 * freedom) ** 0.5)


# ---- Errors, the same in ops and host -----------------------------------------------------------

ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_samples": -1}, ValueError, "num_samples is -1; expected 0 or more"),
    ({"length": 0}, ValueError, "length is 0; expected 1 or more"),
    ({"length": 65537}, ValueError, "length is 65537; accepted are at most 65536"),
    ({"length": 196.0}, TypeError, "length is 196.0"),
    ({"mask_ratio": -0.1}, ValueError, "mask_ratio is -0.1; accepted are 0 to 1"),
    ({"mask_ratio": 1.01}, ValueError, "mask_ratio is 1.01; accepted are 0 to 1"),
    ({"mask_ratio": float("nan")}, ValueError, "mask_ratio is nan"),
    ({"mask_ratio": "0.5"}, TypeError, "mask_ratio is '0.5'"),
    ({"seed": 2**64}, ValueError, "expected an integer of 64 bits"),
    ({"noise": np.zeros((2, 196))}, ValueError, "noise is given, so seed and sample_ids have no"),
    ({"noise": np.zeros((2, 195)), "seed": None}, ValueError, r"noise has shape \(2, 195\)"),
    ({"noise": np.zeros((2, 196), int), "seed": None}, TypeError, "noise is .*int64; expected a"),
    ({"noise": [0.5], "seed": None}, TypeError, "noise is list; expected a"),
]


@pytest.mark.parametrize("where", ["ops", "host"])
@pytest.mark.parametrize(("wrong", "error", "message"), ERRORS)
def test_errors(where: str, wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"num_samples": 2, "length": 196, "mask_ratio": 0.75, "seed": 0, **wrong}
    if where == "ops" and isinstance(arguments.get("noise"), np.ndarray):
        arguments["noise"] = torch.from_numpy(arguments["noise"])
    function: Any = ops.random_mask if where == "ops" else host.random_mask
    with pytest.raises(error, match=message):
        function(**arguments)


def test_device() -> None:
    assert ops.random_mask(2, 196, 0.5, seed=1, device="meta")[1].device.type == "meta"
    noise = torch.rand(2, 196, device="meta")
    assert ops.random_mask(2, 196, 0.5, noise=noise)[2].device.type == "meta"
    with pytest.raises(ValueError, match="noise is on meta; expected cpu"):
        ops.random_mask(2, 196, 0.5, noise=noise, device="cpu")


def test_kernels_refuse_what_would_leave_their_memory() -> None:
    """The second fence: calls past the public function."""
    if reason := backends.reason(OPS["random_mask"], "compiled", "cpu"):
        pytest.skip(reason)
    seed, ids = torch.tensor([1]), torch.arange(2)
    with serving("compiled", "random_mask"):
        for length, kept in [(0, 0), (65537, 1), (196, 197), (196, -1)]:
            with pytest.raises(RuntimeError, match="out of range"):
                OPS["random_mask"].overload(seed, ids, 2, length, kept)
        with pytest.raises(RuntimeError, match="sample_ids must be int64"):
            OPS["random_mask"].overload(seed, ids.int(), 2, 196, 49)
        with pytest.raises(RuntimeError, match="sample_ids must be int64"):
            OPS["random_mask"].overload(seed, ids, 3, 196, 49)
        with pytest.raises(RuntimeError, match="seed must be one int64"):
            OPS["random_mask"].overload(ids, ids, 2, 196, 49)
        with pytest.raises(RuntimeError, match="out of range"):
            OPS["random_mask_from_noise"].overload(torch.rand(2, 8), 9)
        with pytest.raises(RuntimeError, match="noise must be floating point"):
            OPS["random_mask_from_noise"].overload(torch.rand(8), 4)
