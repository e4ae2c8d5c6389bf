"""Batches for training and evaluation, the same with any number of workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    Sampler,
    SequentialSampler,
    default_collate,
)

from .augment import Augmentation, center_crop, generator
from .decode import Unreadable
from .index import DataError
from .sampler import EpochSampler, Key
from .sources import Source, check_readable, open_source, split
from .views import MultiView

__all__ = [
    "Augmentation",
    "DataError",
    "EpochSampler",
    "EvaluationDataset",
    "LoaderError",
    "MultiView",
    "MultiViewDataset",
    "PretrainDataset",
    "Source",
    "check_readable",
    "collate",
    "evaluation_loader",
    "loader",
    "open_source",
    "split",
]


class PretrainDataset(Dataset[dict[str, Any]]):
    """Random views of images, each a function of (seed, epoch, sample).

    Args:
        source: where the images are.
        indices: [N] int64, those of the source that this data set has.
        image_size: side of a view in pixels.
        augmentation: crop and flip.
        seed: of the run.
    """

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        image_size: int,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self.source = source
        self.indices = np.asarray(indices, np.int64)
        self.image_size = image_size
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One view.

        An image that cannot be read is replaced by the next in the data set that can.

        Args:
            key: (epoch, position in `indices`).

        Returns:
            image: [3, image_size, image_size] uint8. index: that of the image in the source.
            unreadable: the (index, reason) of each image passed over.

        Raises:
            DataError: if no image of the data set can be read.
        """
        epoch, position = key
        at_least = self.decode_size()
        unreadable: list[tuple[int, str]] = []
        for place in range(position, position + len(self)):
            index = int(self.indices[place % len(self)])
            try:
                image = self.source.image(index, at_least)
            except Unreadable as error:
                unreadable.append((index, str(error)))
                continue
            made = self.make(image, epoch, int(self.indices[position]))
            return {**made, "index": index, "unreadable": unreadable}
        index, reason = unreadable[0]
        raise DataError(
            f"none of the {len(self):,} images can be read ({self.source.description}); "
            f"{self.source.name(index)}: {reason}"
        )

    def make(self, image: Image.Image, epoch: int, sample: int) -> dict[str, Any]:
        """What one image becomes."""
        random = generator(self.seed, epoch, sample)
        return {"image": self.augmentation(image, self.image_size, random)}

    def decode_size(self) -> int:
        """The shorter side that an image needs, in pixels."""
        return self.augmentation.decode_size(self.image_size)


class MultiViewDataset(PretrainDataset):
    """Several random views of images, each a function of (seed, epoch, sample, view).

    Items have `views`, a list of [3, S, S] uint8, and `parameters` [V, 9] float32, what the device
    is to do to them, in place of `image`.

    Args:
        source, indices, seed: see `PretrainDataset`.
        views: makes them.
    """

    def __init__(self, source: Source, indices: np.ndarray, views: MultiView, seed: int) -> None:
        super().__init__(source, indices, max(views.sides), Augmentation(), seed)
        self.views = views

    def make(self, image: Image.Image, epoch: int, sample: int) -> dict[str, Any]:
        views, parameters = self.views(image, self.seed, epoch, sample)
        return {"views": views, "parameters": parameters}

    def decode_size(self) -> int:
        return self.views.decode_size()


class EvaluationDataset(Dataset["tuple[Tensor, int] | None"]):
    """Whole images (their middle square) with labels, the same at each evaluation.

    Args:
        source: where the images are.
        indices: [N] int64, those of the source that this data set has.
        image_size: side of an image in pixels.
    """

    def __init__(self, source: Source, indices: np.ndarray, image_size: int) -> None:
        self.source = source
        self.indices = np.asarray(indices, np.int64)
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int] | None:
        """[3, image_size, image_size] uint8 and its label, -1 for none; None if unreadable."""
        index = int(self.indices[position])
        try:
            image = self.source.image(index, self.image_size)
        except Unreadable:
            return None
        labels = self.source.labels
        pixels = center_crop(image, self.image_size)
        return pixels, -1 if labels is None else int(labels[index])

    def collate(self, items: Sequence[tuple[Tensor, int] | None]) -> tuple[Tensor, Tensor, int]:
        """Images [n, 3, S, S] uint8, labels [n] int64, and how many were unreadable and left out.

        n may be 0.
        """
        read = [item for item in items if item is not None]
        left_out = len(items) - len(read)
        if not read:
            images = torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
            return images, torch.empty(0, dtype=torch.int64), left_out
        images, labels = default_collate(read)
        return images, labels, left_out


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of views of `PretrainDataset` or `MultiViewDataset`.

    Returns:
        inputs: [N, 3, S, S] uint8, or a list of such, one for each view. sample_ids: [N] int64.
        unreadable: list of (index, reason). With several views also parameters: [N, V, 9] float32,
        an array, which stays on the CPU when tensors go to the device.
    """
    batch: dict[str, Any] = {}
    if "views" in items[0]:
        batch["inputs"] = [
            default_collate(list(views))
            for views in zip(*(item["views"] for item in items), strict=True)
        ]
        batch["parameters"] = np.stack([item["parameters"] for item in items])
    else:
        batch["inputs"] = default_collate([item["image"] for item in items])
    return {
        # One copy of the images: in a worker this is memory shared with the main process.
        **batch,
        "sample_ids": torch.tensor([item["index"] for item in items], dtype=torch.int64),
        "unreadable": [entry for item in items for entry in item["unreadable"]],
    }


class LoaderError(RuntimeError):
    """A process that loads images died."""


class _Loader(DataLoader[Any]):
    """Says in one line what a worker could not do."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        iterator: Any = None
        try:
            iterator = super().__iter__()
            yield from iterator
        except Exception as error:
            if self.num_workers and iterator is not None:
                iterator._shutdown_workers()  # by the garbage collector it takes torch 5 seconds
                self._iterator = None
            if isinstance(error, DataError):  # torch puts the worker's traceback before the text
                raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None
            if isinstance(error, RuntimeError) and "DataLoader worker (" in str(error):
                raise LoaderError(
                    f"{error}. A process that loads images died: most often memory or /dev/shm is "
                    "full; use fewer workers (0 loads in this process) or smaller batches"
                ) from error
            raise


def _start_worker(worker: int) -> None:
    """Leaves Ctrl-C to the main process, which still needs its batches to end in good order.

    torch itself gives each worker one thread.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def loader(
    dataset: Dataset[Any],
    sampler: Sampler[Any],
    workers: int,
    *,
    collate: Callable[..., Any] = collate,
    prefetch: int = 2,
    persistent: bool = True,
    start_method: str | None = None,
) -> DataLoader[Any]:
    """Batches in the sampler's order, made by worker processes.

    Args:
        dataset: `PretrainDataset` or another that pickles.
        sampler: yields lists of keys.
        workers: processes; 0 loads in this one.
        collate: makes a batch of a list of items.
        prefetch: batches that each worker makes ahead.
        persistent: whether the workers stay for the next pass.
        start_method: "fork", "spawn" or "forkserver"; None for Python's own choice.

    Raises:
        ValueError: for less than no workers.
    """
    if workers < 0:
        raise ValueError(f"workers is {workers}; expected 0 or more")
    return _Loader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=persistent and workers > 0,
        multiprocessing_context=start_method if workers else None,
    )


def evaluation_loader(
    dataset: EvaluationDataset, batch_size: int, workers: int
) -> DataLoader[tuple[Tensor, Tensor, int]]:
    """Batches (images, labels, number left out) of an evaluation, in order, once a pass."""
    sampler = BatchSampler(SequentialSampler(dataset), batch_size, drop_last=False)
    return loader(dataset, sampler, workers, collate=dataset.collate, persistent=False)
