"""What a run feeds on: views to train on, images to measure features on, pictures for the panel."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .collapse import SAMPLES
from .data import (
    Augmentation,
    EpochSampler,
    EvaluationDataset,
    MultiViewDataset,
    PretrainDataset,
    check_readable,
    collate,
    evaluation_loader,
    loader,
    open_source,
    split,
)
from .methods import METHODS
from .options import PretrainOptions
from .views import MultiView, augmented_views, chosen

PICTURES = 6  # images in a panel
PROBE_IMAGES = 5000  # to fit the probes to, at most
PROBE_BATCH = 256
MAX_WORKERS = 8

Batches = Iterable[tuple[Tensor, Tensor]]


class Feed:
    """The images of a run, divided into those to train on and those held out.

    Without labels nothing is held out: there is nothing to measure.

    Args:
        options: of the run, with data.

    Attributes:
        source: the images.
        train, held_out: [n] int64, indices in the source.
        description: one line.
        multiple: of pixels, what the side of a small view is a multiple of; the backbone says.

    Raises:
        DataError: for images that are missing or cannot be read.
    """

    def __init__(self, options: PretrainOptions) -> None:
        assert options.data is not None
        self.options = options
        self.source = open_source(options.data)
        check_readable(self.source)
        holdout = options.holdout if self.source.labels is not None else 0.0
        self.train, self.held_out = split(self.source, holdout, options.seed)
        self.description = f"{self.source.description}; {len(self.train):,} to train on"
        self.multiple = 1
        self._pictured: list[int] = []

    def loader(
        self, rank: int, world_size: int, start_step: int, total_steps: int, workers: int
    ) -> Iterable[dict[str, Any]]:
        """Batches for one process, from a step on; see `data.collate` and `EpochSampler`."""
        options, dataset = self.options, self._dataset()
        sampler = EpochSampler(
            len(dataset),
            options.batch_size,
            options.seed,
            rank=rank,
            world_size=world_size,
            accumulate=options.accumulate,
            start_step=start_step,
            total_steps=total_steps,
        )
        return loader(dataset, sampler, workers)

    def _dataset(self) -> PretrainDataset:
        options, source = self.options, self.source
        if METHODS[options.method].views:
            return MultiViewDataset(source, self.train, self._multi_view(), options.seed)
        augmentation = source.default_augmentation
        augmentation = augmentation or Augmentation(METHODS[options.method].crop_scale)
        augmentation = dataclasses.replace(
            augmentation,
            scale=options.crop_scale or augmentation.scale,
            flip=augmentation.flip if options.flip is None else options.flip,
        )
        return PretrainDataset(source, self.train, options.image_size, augmentation, options.seed)

    def _multi_view(self) -> MultiView:
        options = self.options
        views = chosen(
            [self.source.suited(view) for view in METHODS[options.method].views],
            crop_scale=options.crop_scale,
            flip=options.flip,
            jitter=options.jitter,
            local_views=options.local_views,
        )
        return MultiView(views, options.image_size, self.multiple)

    @property
    def labelled(self) -> bool:
        """Whether there are images to measure features on."""
        return len(self.held_out) > 0

    def splits(self) -> tuple[Batches, Batches]:
        """Batches of (uint8 images, labels) to fit probes to, and to measure them on."""
        places = np.linspace(0, len(self.train) - 1, PROBE_IMAGES, dtype=np.int64)
        return self._batches(self.train[np.unique(places)]), self._batches(self.held_out)

    def sample(self) -> Batches:
        """Batches of (uint8 images, labels) to train on, from all over, to measure features of."""
        places = np.linspace(0, len(self.train) - 1, SAMPLES, dtype=np.int64)
        return self._batches(self.train[np.unique(places)])

    def _batches(self, indices: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        data = EvaluationDataset(self.source, indices, self.options.image_size)
        batch_size = min(PROBE_BATCH, self.options.batch_size)
        for images, labels, _ in evaluation_loader(data, batch_size, self.options.workers or 0):
            if len(images):  # all of a batch may be unreadable
                yield images, labels

    def pictures(self) -> Tensor:
        """Images from all over the data, those held out if there are: uint8 [n, 3, S, S]."""
        indices = self.held_out if self.labelled else self.train
        data = EvaluationDataset(self.source, indices, self.options.image_size)
        # More than are wanted, since some may be unreadable.
        places = np.unique(np.linspace(0, len(data) - 1, 10 * PICTURES, dtype=np.int64))
        found: list[Tensor] = []
        for place in np.concatenate([places[first::10] for first in range(10)]).tolist():
            item = data[place]
            if item is not None:
                found.append(item[0])
                self._pictured.append(int(indices[place]))
            if len(found) == PICTURES:
                break
        return torch.stack(found)

    def views_of_pictures(self, epoch: int) -> list[Tensor]:
        """What a model sees of the pictures in an epoch, for each view: uint8 [n, 3, S, S]."""
        made = MultiViewDataset(
            self.source, np.array(self._pictured), self._multi_view(), self.options.seed
        )
        batch = collate([made[epoch, place] for place in range(len(made))])
        return augmented_views(batch["inputs"], batch["parameters"])


def default_workers(processes: int) -> int:
    """Processes that load images for each of the processes that train on this machine."""
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    else:
        processors = os.cpu_count() or 1
    return max(1, min(MAX_WORKERS, processors // processes - 1))
