"""The global batch of a step is one set, however it is cut and wherever a run starts."""

from __future__ import annotations

import itertools

import pytest

from ssl_fast.training.sampler import EpochSampler, Key

SIZES = [(50, 8), (16, 16), (5, 8), (3, 8), (1, 8), (17, 16)]


def steps(num_samples: int, batch_size: int, total: int, **options: int) -> list[list[list[Key]]]:
    """The micro-batches of each step, of one rank."""
    sampler = EpochSampler(num_samples, batch_size, seed=7, total_steps=total, **options)
    parts = options.get("accumulate", 1)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return [batches[i : i + parts] for i in range(0, len(batches), parts)]


@pytest.mark.parametrize(("num_samples", "batch_size"), SIZES)
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_and_parts_do_not_change_a_step(
    num_samples: int, batch_size: int, world_size: int, accumulate: int
) -> None:
    whole = steps(num_samples, batch_size, 20)
    ranks = [
        steps(
            num_samples,
            batch_size,
            20,
            rank=rank,
            world_size=world_size,
            accumulate=accumulate,
        )
        for rank in range(world_size)
    ]
    for step in range(20):
        # Part by part, rank by rank: the slices in this order are the batch of one process.
        slices = [ranks[r][step][part] for part in range(accumulate) for r in range(world_size)]
        assert {len(keys) for keys in slices} == {batch_size // world_size // accumulate}
        assert list(itertools.chain(*slices)) == whole[step][0]


@pytest.mark.parametrize(("num_samples", "batch_size"), SIZES)
def test_a_run_goes_on_at_any_step(num_samples: int, batch_size: int) -> None:
    options = {"rank": 1, "world_size": 2, "accumulate": 2}
    whole = steps(num_samples, batch_size, 20, **options)
    for start in range(21):
        assert steps(num_samples, batch_size, 20, start_step=start, **options) == whole[start:]


def test_an_epoch_sees_each_sample_once() -> None:
    keys = list(itertools.chain(*EpochSampler(48, 8, seed=7, total_steps=18)))
    epochs = [keys[:48], keys[48:96], keys[96:]]
    for epoch, keys in enumerate(epochs):
        assert sorted(keys) == [(epoch, position) for position in range(48)]
    assert len({tuple(position for _, position in keys) for keys in epochs}) == 3


def test_what_is_left_of_an_epoch_is_dropped() -> None:
    sampler = EpochSampler(50, 8, seed=7, total_steps=12)
    assert sampler.steps_per_epoch == 6
    keys = list(itertools.chain(*sampler))
    assert len(keys) == len(set(keys)) == 96
    assert {epoch for epoch, _ in keys[:48]} == {0}
    assert {epoch for epoch, _ in keys[48:]} == {1}


def test_few_samples_come_again_under_the_next_epochs() -> None:
    sampler = EpochSampler(3, 8, seed=7, total_steps=3)
    assert sampler.steps_per_epoch == 1
    keys = list(itertools.chain(*sampler))
    assert sorted(keys) == [(epoch, position) for epoch in range(8) for position in range(3)]


def test_seeds_give_other_orders() -> None:
    orders = {tuple(EpochSampler(50, 8, seed, total_steps=1).order(0)) for seed in range(5)}
    assert len(orders) == 5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_samples": 0}, "num_samples is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"world_size": 3, "accumulate": 2}, "batch_size is 8; expected a multiple of 6: 3 proc"),
        ({"rank": 1}, "rank is 1; expected 0 to 0"),
        ({"start_step": 11}, r"start_step is 11; expected 0 to total_steps \(10\)"),
    ],
)
def test_numbers_are_checked(options: dict[str, int], text: str) -> None:
    arguments = {"num_samples": 50, "batch_size": 8, "seed": 0, "total_steps": 10}
    with pytest.raises(ValueError, match=text):
        EpochSampler(**{**arguments, **options})
