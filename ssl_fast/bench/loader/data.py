"""What a loader loads: pictures, and masks by one law and of one maker."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ... import host
from ...nn import BEiTMaskGenerator, SimMIMMaskGenerator
from ..cases.masks import collate_in_python
from ..providers import peer

SIDE, CROP = 256, 224
OURS = "ssl_fast.host"

Transform = Callable[[dict[str, Any]], dict[str, Any]]
BatchMasks = Callable[[int, int], Any]  # number of samples, seed -> masks of a batch


@dataclass(frozen=True)
class Maker:
    """Who makes masks: for each picture, or for a batch while it is collated.

    Attributes:
        prepare: returns (transform, None) or (None, function of a batch); may raise Skipped.
        packages: distributions whose versions matter.
    """

    prepare: Callable[[], tuple[Transform | None, BatchMasks | None]]
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Law:
    """What masks are like.

    Attributes:
        words: as the table shows it.
        counts: of a batch of masks [B, h, w] what must equal `expected`, by the size of the batch.
        makers: by name.
    """

    words: str
    counts: Callable[[Tensor], list[int]]
    expected: Callable[[int], list[int]]
    makers: dict[str, Maker]


def _cells(masks: Tensor) -> list[int]:
    return masks.flatten(1).long().sum(dim=1).tolist()


def _masked_crops(masks: Tensor) -> list[int]:
    return [int(masks.flatten(1).any(dim=1).sum())]


def _upstream(name: str, *arguments: int) -> Maker:
    def prepare() -> tuple[Transform, None]:
        return getattr(peer("mmpretrain_masks"), name)(*arguments), None

    return Maker(prepare, ("mmpretrain", "mmengine"))


def _ibot_on_host(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    masks = host.ibot_mask(count, IBOT_GRID, seed=seed)
    arrays = (masks.mask.reshape(count, *IBOT_GRID), masks.indices, masks.weights)
    mask, indices, weights = map(torch.from_numpy, arrays)
    return mask, indices, weights


def _ibot_in_python(count: int, seed: int) -> Tensor:
    return collate_in_python(count, IBOT_GRID, np.random.RandomState(seed))


IBOT_GRID = (16, 16)
LAWS = {
    "beit": Law(
        "BEiT's blocks, 75 of 14 x 14",
        _cells,
        lambda count: [75] * count,
        {
            OURS: Maker(lambda: (BEiTMaskGenerator(14, 75, seed=0), None)),
            "mmpretrain": _upstream("BEiTMaskGenerator", 14, 75),
        },
    ),
    "simmim": Law(
        "SimMIM's squares, 48 x 48",
        _cells,
        lambda count: [22 * 64] * count,
        {
            OURS: Maker(lambda: (SimMIMMaskGenerator(seed=0), None)),
            "mmpretrain": _upstream("SimMIMMaskGenerator"),
        },
    ),
    "dinov2": Law(
        "DINOv2's batches, 16 x 16",
        _masked_crops,
        lambda count: [count // 2],
        {
            OURS: Maker(lambda: (None, _ibot_on_host)),
            "Python loop, DINOv2's law": Maker(lambda: (None, _ibot_in_python)),
        },
    ),
}


class Samples(Dataset[tuple[Any, ...]]):
    """Pictures, masks, or both.

    Args:
        count: how many.
        files: JPEGs that are decoded and cropped; none for masks alone.
        transform: adds "mask" to a dict; None for none.
    """

    def __init__(self, count: int, files: Sequence[Path], transform: Transform | None) -> None:
        self.count = count
        self.files = files
        self.transform = transform

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        parts: list[Any] = [index]
        if self.files:
            parts.append(decoded(self.files[index % len(self.files)], index))
        if self.transform:
            parts.append(self.transform({"sample_idx": index})["mask"])
        return tuple(parts)


class Collate:
    """Batches of samples; with `masks`, also masks for the batch.

    The last part of a batch are its masks.
    """

    def __init__(self, masks: BatchMasks | None) -> None:
        self.masks = masks

    def __call__(self, samples: list[tuple[Any, ...]]) -> list[Any]:
        batch = list(default_collate(samples))
        if self.masks:
            batch.append(self.masks(len(samples), samples[0][0]))
        return batch


def decoded(file: Path, seed: int) -> NDArray[np.uint8]:
    """A random crop of a picture, [3, CROP, CROP] uint8."""
    from PIL import Image

    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    top, left = (seed * step % (SIDE - CROP + 1) for step in (7, 11))
    crop = pixels[top : top + CROP, left : left + CROP]
    return np.ascontiguousarray(crop.transpose(2, 0, 1))


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Random JPEGs of SIDE pixels, smooth as photographs are, with a little noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    files = [folder / f"{index}.jpg" for index in range(count)]
    for file in files:
        coarse = rng.integers(0, 256, (math.ceil(SIDE / 16),) * 2 + (3,), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth, dtype=np.int16) + rng.integers(-8, 9, (SIDE, SIDE, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, quality=90)
    return files
