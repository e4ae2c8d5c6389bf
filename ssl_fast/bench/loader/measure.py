"""Counts what each maker masked, then loads epochs in turns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from .. import machine
from ..case import Mismatch, Skipped
from ..report import FAILED, OK, SKIPPED
from ..timers import quantiles
from .data import LAWS, Collate, Law, Maker, Samples
from .rows import LoaderRow

ALONE, DECODING = "masks alone", "decode, crop"
NO_MASKS = Maker(lambda: (None, None))


@dataclass(frozen=True)
class Extent:
    """How much is loaded.

    Attributes:
        batch: images in a batch.
        pictures, masks: batches of an epoch where pictures are decoded, and where they are not.
        epochs: that are timed, after one that is not.
        workers: numbers of processes.
    """

    batch: int = 64
    pictures: int = 3
    masks: int = 16
    epochs: int = 3
    workers: tuple[int, ...] = (0, 1, 2)


@dataclass
class Lane:
    """A maker that takes part."""

    row: LoaderRow
    loader: DataLoader[Any]


def measure(
    files: Sequence[Path], extent: Extent, laws: dict[str, Law] = LAWS
) -> Iterator[list[LoaderRow]]:
    """Rows of one kind of work and one number of workers after the other.

    Args:
        files: pictures to be decoded.
        extent: how much is loaded.
        laws: of the masks.
    """
    for work in (ALONE, DECODING):
        for workers in extent.workers:
            yield _measure_one(files if work == DECODING else (), work, workers, extent, laws)


def _measure_one(
    files: Sequence[Path], work: str, workers: int, extent: Extent, laws: dict[str, Law]
) -> list[LoaderRow]:
    rows, lanes = [], []
    everybody = [(law, *maker) for law in laws.values() for maker in law.makers.items()]
    if files:
        nothing = Law("no masks", lambda _: [], lambda _: [], {})
        everybody.insert(0, (nothing, "none", NO_MASKS))
    for law, provider, maker in everybody:
        row = LoaderRow(law.words, work, workers, extent.batch, provider)
        rows.append(row)
        try:
            transform, batch_masks = maker.prepare()
            row.versions = machine.versions(maker.packages)
            count = extent.batch * (extent.pictures if files else extent.masks)
            samples, collate = Samples(count, files, transform), Collate(batch_masks)
            check(law, samples, collate, extent.batch)
            loader = DataLoader(
                samples, extent.batch, num_workers=workers, collate_fn=collate,
                persistent_workers=workers > 0,
            )  # fmt: skip
            lanes.append(Lane(row, loader))
        except Skipped as reason:
            row.status = f"{SKIPPED}: {reason}"
        except Exception as error:  # whatever a provider raises is its result
            row.status = f"{FAILED}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    load_in_turns(lanes, extent)
    return rows


def check(law: Law, samples: Samples, collate: Collate, batch: int) -> None:
    """What is masked in two batches.

    Raises:
        Mismatch: if the counts are not those of the law.
    """
    alone = Samples(samples.count, (), samples.transform)
    expected = law.expected(batch)
    for first in (0, batch) if expected else ():
        masks = collate([alone[index] for index in range(first, first + batch)])[-1]
        got = law.counts(masks if isinstance(masks, Tensor) else masks[0])
        if got != expected:
            raise Mismatch(f"masks count {got}; expected {expected}")


def load_in_turns(lanes: Sequence[Lane], extent: Extent) -> None:
    """An epoch of each lane, round after round; the first starts the workers and is not timed."""
    rates: dict[int, list[float]] = {index: [] for index in range(len(lanes))}
    for done in range(1 + extent.epochs):
        for index, lane in enumerate(lanes):
            start, images = time.perf_counter(), 0
            for batch in lane.loader:
                images += len(batch[0])
            if done:
                rates[index].append(images / (time.perf_counter() - start))
            lane.row.images = images
    for index, lane in enumerate(lanes):
        row = lane.row
        assert row.status == OK
        row.images_per_s, row.p20_per_s, row.p80_per_s = quantiles(rates[index])
        row.us_per_image = 1e6 / row.images_per_s
        row.epochs = extent.epochs
