"""Random crops and flips of single images on uint8, in data-loading workers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..random import derive_seed

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

TRIES = 10  # to place a random crop inside the image, as torchvision's RandomResizedCrop
WHOLE_PIXELS = 64  # a box of this side or more is rounded to whole pixels: less than 1 % of it


def generator(seed: int, epoch: int, sample: int, *view: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch: the same in any worker, order or resumed run.

    Args:
        seed: of the run.
        epoch: from 0.
        sample: index of the image in its source.
        view: place of the view among those of the sample, where there are several.
    """
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, epoch, sample, *view)))


@dataclass(frozen=True)
class Augmentation:
    """A random crop, resized to a square, and a flip: all that MaskFeat and MAE do to an image.

    Args:
        scale: least and largest area of the crop, as shares of the image's.
        ratio: least and largest width / height of the crop; its logarithm is uniform.
        flip: whether half of the images are mirrored left to right.

    Raises:
        ValueError: for ranges that are empty or lie outside of 0 < scale <= 1, 0 < ratio.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}; expected 0 < least <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"ratio is {self.ratio}; expected 0 < least <= largest")

    def __call__(self, image: Image.Image, size: int, random: np.random.Generator) -> Tensor:
        """One random view of an RGB image: [3, size, size] uint8."""
        box = self.crop(*image.size, random)
        return resized(image, box, size, mirror=self.flip and random.random() < 0.5)

    def decode_size(self, size: int) -> int:
        """The shorter side that an image needs for no crop to be enlarged to `size`, in pixels."""
        narrowest = min(self.ratio[0], 1 / self.ratio[1], 1.0)
        return math.ceil(size / math.sqrt(self.scale[0] * narrowest))

    def crop(self, width: int, height: int, random: np.random.Generator) -> Box:
        """A crop of an image, in pixels: left, top, right, bottom.

        Not rounded to whole pixels, so that scans of 8 x 8 have more than a few different crops.
        Where no crop fits in the image in ten tries, it is the largest in its middle whose ratio
        is in the range, whatever its area.
        """
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(TRIES):
            area = width * height * random.uniform(*self.scale)
            ratio = math.exp(random.uniform(low, high))
            w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if w <= width and h <= height:
                left, top = random.uniform(0, width - w), random.uniform(0, height - h)
                # The sums may be off by a rounding, and Pillow refuses to leave the image.
                return left, top, min(left + w, width), min(top + h, height)
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        return _middle(width, height, min(width, height * ratio), min(height, width / ratio))


def center_crop(image: Image.Image, size: int) -> Tensor:
    """The largest square in the middle of an RGB image, resized: [3, size, size] uint8."""
    width, height = image.size
    side = min(width, height)
    return resized(image, _middle(width, height, side, side), size)


def _middle(width: int, height: int, w: float, h: float) -> Box:
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def resized(image: Image.Image, box: Box, size: int, mirror: bool = False) -> Tensor:
    """The part of an RGB image in `box`, resized by an antialiased bicubic filter.

    Torch does this for 8-bit images three times as fast as Pillow, by the same weights, but from
    whole pixels, so that boxes of a few pixels are left to Pillow. What is more than 6 times too
    large goes through a box filter first, which does not show and is another 3 times as fast.

    Args:
        image: mode "RGB".
        box: left, top, right, bottom in pixels, inside the image.
        size: side of the result in pixels.
        mirror: whether left and right are swapped.

    Returns:
        [3, size, size] uint8, contiguous.
    """
    side = min(box[2] - box[0], box[3] - box[1])
    if side < WHOLE_PIXELS:
        view = _tensor(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    else:
        left, top, right, bottom = map(round, box)
        factor = max(int(side / size / 3), 1)
        part = _tensor(image.reduce(factor, (left, top, right, bottom)))[None]
        view = F.interpolate(part, size=(size, size), mode="bicubic", antialias=True)[0]
    return view.flip(-1).contiguous() if mirror else view.contiguous()


def _tensor(image: Image.Image) -> Tensor:
    """[3, H, W] uint8, channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
