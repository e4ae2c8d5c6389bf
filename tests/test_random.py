"""Philox, seeds and sample ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_fast import random

# Random123's known answers: counter, key, words.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),  # pi
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
Words = tuple[int, ...]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter: Words, key: Words, expected: Words) -> None:
    assert random.philox(counter, key) == expected
    tensors = random.philox(
        tuple(torch.tensor([word]) for word in counter), tuple(map(torch.tensor, key))
    )
    assert tuple(map(int, tensors)) == expected


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_of_the_kernels(counter: Words, key: Words, expected: Words) -> None:
    native = pytest.importorskip("ssl_fast._host", reason="ssl_fast._host was not built")
    assert tuple(native.philox(counter, key)) == expected


def test_derived_seeds_do_not_change() -> None:
    """Numbers written down: a run that goes on with a newer version draws what it would have."""
    assert random.derive_seed(0) == 7019358705328580821
    assert random.derive_seed(0, 1) == 1400231510404338093
    assert random.derive_seed(0, 1, 2) == 6555043850587549008
    assert random.derive_seed(-1, 2**63) == random.derive_seed(2**64 - 1, -(2**63))


def test_derived_seeds_differ() -> None:
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (2**32,), (-1,), (0, 0, 0)]
    seeds = {random.derive_seed(seed, *key) for seed in (0, 1, 2**40, -1) for key in keys}
    assert len(seeds) == 4 * len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert random.derive_seed(np.int64(3), np.uint8(4)) == random.derive_seed(3, 4)


def test_every_bit_of_derived_seeds_is_fair() -> None:
    """Of consecutive steps: 4,096 draws of a bit have a standard deviation of 32."""
    seeds = np.array([random.derive_seed(1, step) for step in range(4096)])
    counts = (seeds[:, None] >> np.arange(63) & 1).sum(axis=0)
    assert abs(counts - 2048).max() < 5 * 32


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_integers_beyond_64_bits_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="expected an integer of 64 bits"):
        random.derive_seed(value)
    with pytest.raises(ValueError, match="key is"):
        random.derive_seed(0, value)
    with pytest.raises(ValueError, match="seed is"):
        random.seed_tensor(value, CPU)


@pytest.mark.parametrize("value", [1.0, "1", None])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="expected an int"):
        random.derive_seed(value)


def test_seed_tensor() -> None:
    for seed, expected in [(5, 5), (-1, -1), (2**64 - 1, -1), (2**63, -(2**63))]:
        tensor = random.seed_tensor(seed, CPU)
        assert tensor.tolist() == [expected]
        assert tensor.dtype == torch.int64
    assert random.seed_tensor(torch.tensor(3), CPU).tolist() == [3]
    with pytest.raises(TypeError, match="expected one int64"):
        random.seed_tensor(torch.tensor([1, 2]), CPU)
    with pytest.raises(TypeError, match="expected one int64"):
        random.seed_tensor(torch.tensor([1.0]), CPU)
    with pytest.raises(ValueError, match="seed is on cpu; expected meta"):
        random.seed_tensor(torch.tensor([1]), torch.device("meta"))


def test_no_seed_is_drawn_from_torch() -> None:
    torch.manual_seed(4)
    first, second = (random.seed_tensor(None, CPU) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(4)
    assert torch.equal(random.seed_tensor(None, CPU), first)


def test_sample_id_tensor() -> None:
    assert random.sample_id_tensor(None, 3, CPU).tolist() == [0, 1, 2]
    ids = torch.tensor([7, 1])
    assert random.sample_id_tensor(ids, 2, CPU) is ids
    with pytest.raises(TypeError, match=r"sample_ids is torch\.int32"):
        random.sample_id_tensor(ids.int(), 2, CPU)
    with pytest.raises(TypeError, match="sample_ids is list"):
        random.sample_id_tensor([7, 1], 2, CPU)
    with pytest.raises(ValueError, match=r"shape \(2,\); expected \(3,\)"):
        random.sample_id_tensor(ids, 3, CPU)
    with pytest.raises(ValueError, match="sample_ids is on cpu; expected meta"):
        random.sample_id_tensor(ids, 2, torch.device("meta"))
