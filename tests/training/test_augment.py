"""Crops, flips and sizes of single images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_fast.training.augment import Augmentation, center_crop, generator, resized


def picture(width: int, height: int) -> Image.Image:
    """Smooth, brighter to the right in red and to the bottom in green."""
    y, x = np.mgrid[:height, :width]
    planes = [x * 255 // (width - 1), y * 255 // (height - 1), 0 * x]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


@pytest.mark.parametrize("size", [(500, 375), (150, 211), (8, 8), (1, 1), (1000, 10)])
def test_crops_lie_in_the_image_and_in_the_ranges(size: tuple[int, int]) -> None:
    width, height = size
    augmentation = Augmentation(scale=(0.3, 0.8), ratio=(0.5, 2.0))
    shares, ratios = [], []
    for sample in range(200):
        left, top, right, bottom = augmentation.crop(width, height, generator(0, 0, sample))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        shares.append((right - left) * (bottom - top) / (width * height))
        ratios.append((right - left) / (bottom - top))
    assert min(ratios) >= 0.5 - 1e-6
    assert max(ratios) <= 2.0 + 1e-6
    if max(size) > 10 * min(size):  # no crop of that area fits: the largest in the middle
        assert np.allclose(shares, 2 * min(size) / max(size))
    else:
        assert 0.3 - 1e-6 <= min(shares) < 0.4
        assert 0.7 < max(shares) <= 0.8 + 1e-6
        assert len(set(shares)) > 150


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.5, 1.0), (3 / 4, 4 / 3)), ((0.08, 1.0), (0.25, 2.0))]
)
def test_no_crop_of_an_image_of_decode_size_is_enlarged(
    scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    augmentation = Augmentation(scale, ratio)
    shorter = augmentation.decode_size(224)
    sides = []
    for sample in range(300):
        box = augmentation.crop(shorter, shorter, generator(1, 0, sample))
        sides.append(min(box[2] - box[0], box[3] - box[1]))
    assert min(sides) >= 224
    assert min(sides) < 224 * 1.4  # and not much larger than it has to be


@pytest.mark.parametrize("size", [(500, 375), (300, 80), (40, 30), (8, 8), (1, 1), (3000, 2000)])
def test_view_is_what_the_box_shows(size: tuple[int, int]) -> None:
    """Enlarged or shrunk, through Pillow or torch, the pixels are those of the box."""
    image = picture(*size) if min(size) > 1 else Image.new("RGB", size, (7, 8, 9))
    width, height = size
    box = (0.25 * width, 0.1 * height, 0.75 * width, 0.9 * height)
    view = resized(image, box, 48)
    assert view.shape == (3, 48, 48)
    assert view.dtype == torch.uint8
    assert view.is_contiguous()
    # Pillow in floating point, one channel at a time, is a filter written independently.
    for channel in range(3):
        plane = image.getchannel(channel).convert("F")
        exact = np.asarray(plane.resize((48, 48), Image.Resampling.BICUBIC, box=box))
        slope = 255 / min(size)  # a box in whole pixels is off by half a pixel at most
        assert np.abs(view[channel].numpy() - exact.clip(0, 255)).max() <= 1.5 + 0.6 * slope
    assert torch.equal(resized(image, box, 48, mirror=True), view.flip(-1))
    assert resized(image, box, 48, mirror=True).is_contiguous()


def test_half_of_the_views_are_mirrored() -> None:
    image = picture(80, 80)
    views = [Augmentation((1, 1), (1, 1))(image, 16, generator(0, 0, i)) for i in range(200)]
    mirrored = sum(int(view[0, 0, 0] > view[0, 0, -1]) for view in views)
    assert 70 < mirrored < 130
    plain = Augmentation((1, 1), (1, 1), flip=False)
    assert all(plain(image, 16, generator(0, 0, i))[0, 0, 0] < 20 for i in range(50))


def test_views_are_functions_of_seed_epoch_and_sample() -> None:
    image = picture(300, 200)
    first = Augmentation()(image, 32, generator(1, 2, 3))
    assert torch.equal(Augmentation()(image, 32, generator(1, 2, 3)), first)
    for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0), (1, 3, 2)):
        assert not torch.equal(Augmentation()(image, 32, generator(*key)), first)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (40, 30)])
def test_center_crop(size: tuple[int, int]) -> None:
    width, height = size
    view = center_crop(picture(*size), 32)
    spans = [255 * min(size) / (side - 1) for side in size]  # of red along x, of green along y
    for channel, axis, span in ((0, 0, spans[0]), (1, 1, spans[1])):
        line = view[channel].float().mean(dim=axis)
        assert abs(line.mean() - 127.5) < 1.5
        assert abs(line[-1] - line[0] - span * 31 / 32) < 3 + 255 / min(width, height)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scale": (0.0, 1.0)}, r"scale is \(0.0, 1.0\)"),
        ({"scale": (0.5, 1.1)}, "scale is"),
        ({"scale": (0.6, 0.5)}, "scale is"),
        ({"ratio": (2.0, 1.0)}, "ratio is"),
        ({"ratio": (1.0, math.inf)}, "ratio is"),
    ],
)
def test_ranges_are_checked(options: dict[str, tuple[float, float]], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Augmentation(**options)
