"""Colours, blur and mirroring of a batch of uint8 images, each sample with numbers of its own.

The numbers come as one small array on the CPU, so that which samples an operation changes is known
there: only these are worked on, and a GPU is never waited for. In between the images are float32,
so that nothing is rounded but the result, in chunks, so that they are never large.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What is drawn for a view, in the order in which it is done; see `View`.
FIELDS = (
    "brightness",  # factor, 1 for none
    "contrast",  # factor
    "saturation",  # factor
    "hue",  # turns, 0 for none
    "order",  # in which these four are done: a row of ORDERS
    "grayscale",  # 1 or 0, as the last two
    "sigma",  # of the blur in pixels, 0 for none
    "solarize",
    "flip",
)
HUE, ORDER, GRAYSCALE, SIGMA, SOLARIZE, FLIP = map(
    FIELDS.index, ("hue", "order", "grayscale", "sigma", "solarize", "flip")
)
ORDERS = np.array(list(itertools.permutations(range(4))))
LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as Pillow and torchvision
BRIGHT = 128  # from here on solarising inverts

# Pixels that are worked on at a time: few enough for a CPU's cache, enough to fill a GPU.
CPU_PIXELS, GPU_PIXELS = 2**18, 2**22


@torch.no_grad()
def augmented(images: Tensor, parameters: Any) -> Tensor:
    """Images after colour jitter, grayscale, blur, solarising and mirroring.

    Every sample is that of torchvision's functions (`adjust_brightness`, ..., `gaussian_blur`,
    `solarize` from 128, `horizontal_flip`) one after the other, to a level or two: those round down
    after each. The kernel of the blur is `kernel_size` pixels wide.

    Args:
        images: [N, 3, H, W] uint8, on any device; not changed.
        parameters: [N, 9] floats by `FIELDS`, an array or a tensor on the CPU.

    Returns:
        [N, 3, H, W] uint8, new and contiguous.

    Raises:
        TypeError, ValueError: for other images or parameters.
    """
    drawn = _check(images, parameters)
    result = torch.empty_like(images, memory_format=torch.contiguous_format)
    if not images.numel():
        return result
    at_a_time = CPU_PIXELS if images.device.type == "cpu" else GPU_PIXELS
    step = max(1, at_a_time // (images.shape[2] * images.shape[3]))
    with torch.autocast(images.device.type, enabled=False):
        colour = _ColorJitter(drawn, images.device)
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            x = images[part].to(torch.float32, memory_format=torch.contiguous_format)
            x = colour(x, part)
            x = _grayscale(x, drawn[part, GRAYSCALE])
            x = _blur(x, drawn[part, SIGMA])
            # Nothing above leaves 0 to 255 by more than a rounding, so this needs no limits.
            result[part] = x.add_(0.5)
            _solarize(result[part], drawn[part, SOLARIZE])
            _flip(result[part], drawn[part, FLIP])
    return result


def kernel_size(side: int) -> int:
    """Width of the blur's kernel in pixels: a tenth of the side, odd, 3 at least (of one, 1)."""
    return min(max(3, side // 10 | 1), 2 * side - 1)


class _ColorJitter:
    """Brightness, contrast, saturation and hue in an order of its own for each sample.

    All but hue are one product of the colours with a 3 x 3 matrix, so that at each place in the
    order samples with different operations go through the same product.
    """

    def __init__(self, drawn: np.ndarray, device: torch.device) -> None:
        order = ORDERS[drawn[:, ORDER].astype(np.int64)].T  # [4, N]: what is done when
        value = np.take_along_axis(drawn[:, : HUE + 1].T, order, axis=0)
        factor = np.where(order == 3, 1, value)[..., None, None].astype(np.float32)
        to_gray = np.where(order == 2, 1, 0)[..., None, None] * np.array(LUMA, np.float32)
        matrix = factor * np.eye(3, dtype=np.float32) + (1 - factor) * to_gray
        # What contrast adds is this much of the mean gray of the sample.
        mean = np.where(order == 1, 1 - factor[..., 0, 0], 0)[..., None] * np.array(LUMA)
        self._turns = np.where(order == 3, value, 0)
        self._jitters = (matrix != np.eye(3)).any((1, 2, 3)) | mean.any((1, 2))
        self._levels = mean.any(2)
        self._matrix, self._mean, self._shift = (
            torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device, non_blocking=True)
            for array in (matrix, mean, self._turns)
        )

    def __call__(self, x: Tensor, part: slice) -> Tensor:
        """x [n, 3, H, W] float32, which may be overwritten, of the samples in `part`."""
        pixels = x.flatten(2)
        for place in range(4):
            if self._jitters[place]:
                added = pixels.new_zeros(len(pixels), 1, 1)
                if self._levels[place, part].any():
                    added = (pixels.mean(2) * self._mean[place, part]).sum(1)[:, None, None]
                matrix = self._matrix[place, part]
                pixels = torch.baddbmm(added.expand(-1, 3, 1), matrix, pixels).clamp_(0, 255)
            rows = _rows(self._turns[place, part], x.device)
            if rows is not None:
                shift = self._shift[place, part].index_select(0, rows)
                turned = turn_hue(pixels.index_select(0, rows), shift)
                pixels = pixels.index_copy_(0, rows, turned)
        return pixels.view_as(x)


def turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Colours with another hue and the same saturation and value (HSV).

    Args:
        pixels: [n, 3, P], red, green and blue of any scale.
        turns: [n], 1 for a whole turn.
    """
    red, green, blue = pixels.unbind(1)
    high, low = pixels.amax(1), pixels.amin(1)
    chroma = high - low
    per_chroma = torch.where(chroma > 0, chroma, 1).reciprocal_()
    # In sixths of a turn: from the largest channel, the difference of the other two.
    hue = torch.where(
        high == red,
        (green - blue) * per_chroma,
        torch.where(high == green, (blue - red) * per_chroma + 2, (red - green) * per_chroma + 4),
    )
    hue += 6 * turns[:, None]
    # A channel is highest within a sixth of its own hue, lowest beyond two sixths, linear between.
    own = torch.arange(0, 6, 2, device=pixels.device)[:, None]
    away = (hue[:, None] - own).add_(3).remainder_(6).sub_(3).abs_()
    return torch.addcmul(low[:, None], chroma[:, None], (2 - away).clamp_(0, 1))


def _grayscale(x: Tensor, chosen: np.ndarray) -> Tensor:
    rows = _rows(chosen, x.device)
    if rows is None:
        return x
    red, green, blue = x.index_select(0, rows).unbind(1)
    gray = (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return x.index_copy_(0, rows, gray[:, None].expand(-1, 3, -1, -1))


def _blur(x: Tensor, sigmas: np.ndarray) -> Tensor:
    """Two products with a matrix for each sample, along rows and along columns.

    A matrix of 224 x 224 with 23 diagonals is mostly zeros, but a product of it is several times
    faster than a convolution whose every channel has a kernel of its own.
    """
    rows = _rows(sigmas, x.device)
    if rows is None:
        return x
    height, width = x.shape[2:]
    size = kernel_size(min(height, width))
    sigma = torch.from_numpy(sigmas[sigmas != 0]).to(x.device, non_blocking=True)
    # [n, H, 3, W]: both products then are of whole matrices, without a copy between.
    y = x.index_select(0, rows).transpose(1, 2).contiguous()
    y = torch.bmm(y.flatten(1, 2), blur_matrices(sigma, width, size).transpose(1, 2))
    y = torch.bmm(blur_matrices(sigma, height, size), y.view(len(rows), height, -1))
    return x.index_copy_(0, rows, y.view(len(rows), height, 3, width).transpose(1, 2))


def blur_matrices(sigma: Tensor, side: int, size: int) -> Tensor:
    """Matrices [n, side, side] that blur a column of pixels by a Gaussian, mirrored at its ends.

    Args:
        sigma: [n], standard deviations in pixels.
        side: pixels in the column.
        size: of the kernel, odd.
    """
    distance = torch.arange(size // 2 + 1, device=sigma.device)
    weight = torch.exp(-0.5 * (distance / sigma[:, None]).square())
    weight = weight / (2 * weight.sum(1, keepdim=True) - 1)  # the middle, of weight 1, counts once
    return (weight @ _taps(side, size, sigma.device)).view(len(sigma), side, side)


@functools.lru_cache(maxsize=16)
def _taps(side: int, size: int, device: torch.device) -> Tensor:
    """How often a pixel sees another at each distance: [size // 2 + 1, side * side] float32.

    A pixel is seen where it is, in the mirror at the first and in that at the last; the first and
    the last themselves lie in their mirror.
    """
    distance = torch.arange(size // 2 + 1, device=device)[:, None, None]
    seen_by = torch.arange(side, device=device)[:, None]
    pixel = torch.arange(side, device=device)
    taps = torch.zeros(len(distance), side, side, device=device)
    for place, there in (
        (pixel, pixel >= 0),
        (-pixel, pixel > 0),
        (2 * (side - 1) - pixel, pixel < side - 1),
    ):
        taps += ((seen_by - place).abs() == distance) & there
    return taps.flatten(1)


def _solarize(images: Tensor, chosen: np.ndarray) -> None:
    rows = _rows(chosen, images.device)
    if rows is not None:
        some = images.index_select(0, rows)
        images.index_copy_(0, rows, torch.where(some >= BRIGHT, 255 - some, some))


def _flip(images: Tensor, chosen: np.ndarray) -> None:
    rows = _rows(chosen, images.device)
    if rows is not None:
        images.index_copy_(0, rows, images.index_select(0, rows).flip(-1))


def _rows(chosen: np.ndarray, device: torch.device) -> Tensor | None:
    """The samples that are not 0, on the device; None if there are none."""
    rows = np.flatnonzero(chosen)
    return torch.from_numpy(rows).to(device, non_blocking=True) if len(rows) else None


def _check(images: Any, parameters: Any) -> np.ndarray:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images is {got}; expected a tensor of torch.uint8")
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images has shape {tuple(images.shape)}; expected [N, 3, H, W]")
    drawn = np.asarray(parameters, np.float32)
    if drawn.shape != (len(images), len(FIELDS)):
        raise ValueError(
            f"parameters has shape {drawn.shape}; expected ({len(images)}, {len(FIELDS)}), "
            f"{', '.join(FIELDS)} of each sample"
        )
    order, sigma = drawn[:, ORDER], drawn[:, SIGMA]
    if not (np.isfinite(drawn).all() and (order >= 0).all() and (order < len(ORDERS)).all()):
        raise ValueError(
            f"parameters have orders from {order.min()} to {order.max()}; expected finite ones, "
            f"order 0 to 23"
        )
    if (sigma < 0).any():
        raise ValueError(f"parameters has a sigma of {sigma.min()}; expected 0 or more")
    return drawn
