"""HOG in Triton. A program takes a few neighbouring cells and holds all their pixels at once: a
pixel's eight neighbours are eight loads, which the cache merges.
"""

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference


@triton.jit
def _reflect(i, n):
    """Reflection at the border without repeating it: -1 -> 1, n -> n - 2."""
    return tl.where(i < 0, -i, tl.where(i < n, i, 2 * n - 2 - i))


@triton.jit
def _bins(
    gx, gy, cotangents, NBINS: tl.constexpr, INT: tl.constexpr, COMPUTE: tl.constexpr
):  # fmt: skip
    """The bin of each gradient: csrc/hog/hog_math.h says why this is atan2's."""
    ax, ay = tl.abs(gx), tl.abs(gy)
    mirrored = (gx != 0) & ((gx < 0) != (gy < 0))
    # On the mirrored side the test is strict: >= of the next larger number.
    limit = (ay.to(INT, bitcast=True) + mirrored.to(INT)).to(COMPUTE, bitcast=True)
    passed = tl.zeros(gx.shape, tl.int32)
    for k in range(NBINS // 2):
        passed += (ax * tl.load(cotangents + k) >= limit).to(tl.int32)
    return tl.where(mirrored, NBINS - 1 - passed, passed)


@triton.jit
def _hog_kernel(
    images, out, cotangents, gaussian, mask, ids,
    channels, height, width, stride_b, stride_c, stride_h, stride_w,
    cell, window,
    total, region_h, region_w, slots, patch_h, patch_w, patches_per_row, patches,
    MASKED: tl.constexpr, LISTED: tl.constexpr, COMPUTE: tl.constexpr, INT: tl.constexpr,
    NBINS: tl.constexpr, SIDE: tl.constexpr, CELLS: tl.constexpr, BINS: tl.constexpr,
    EPS: tl.constexpr,
):  # fmt: skip
    """Cells of all regions are numbered through, those of one row after each other. Regions are
    patches where they are chosen, else images. SIDE and BINS are powers of two that hold a cell's
    side and all bins.
    """
    index = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    exists = index < total
    column = index % region_w
    row = index // region_w % region_h
    plane = index // region_w // region_h
    channel = plane % channels
    image = plane // channels
    entry = image  # or image and slot
    first_row = row
    first_column = column
    wanted = exists
    known = exists
    if MASKED or LISTED:
        image = entry // slots
        patch = entry % slots
        if MASKED:
            wanted = wanted & (tl.load(mask + entry, mask=exists, other=0) != 0)
        if LISTED:
            patch = tl.load(ids + entry, mask=exists, other=0)
            known = known & (patch >= 0) & (patch < patches)
        first_row = (patch // patches_per_row) * patch_h + row
        first_column = (patch % patches_per_row) * patch_w + column

    # Pixels: [row in the cell, cell, column in the cell]. A row's address takes 64 bits, what is
    # added along it 32.
    i = tl.arange(0, SIDE)[:, None, None]
    j = tl.arange(0, SIDE)[None, None, :]
    y = first_row.to(tl.int32)[None, :, None] * cell + i
    x = first_column.to(tl.int32)[None, :, None] * cell + j
    inside = (i < cell) & (j < cell) & (wanted & known)[None, :, None]
    base = images + (image * stride_b + channel * stride_c)[None, :, None]
    north = base + _reflect(y - 1, height).to(tl.int64) * stride_h
    middle = base + y.to(tl.int64) * stride_h
    south = base + _reflect(y + 1, height).to(tl.int64) * stride_h
    west = _reflect(x - 1, width) * stride_w
    here = x * stride_w
    east = _reflect(x + 1, width) * stride_w
    nw = tl.load(north + west, mask=inside, other=0).to(COMPUTE)
    n = tl.load(north + here, mask=inside, other=0).to(COMPUTE)
    ne = tl.load(north + east, mask=inside, other=0).to(COMPUTE)
    w = tl.load(middle + west, mask=inside, other=0).to(COMPUTE)
    e = tl.load(middle + east, mask=inside, other=0).to(COMPUTE)
    sw = tl.load(south + west, mask=inside, other=0).to(COMPUTE)
    s = tl.load(south + here, mask=inside, other=0).to(COMPUTE)
    se = tl.load(south + east, mask=inside, other=0).to(COMPUTE)
    gx = (nw - ne) + (sw - se) + 2 * (w - e)
    gy = (nw - sw) + (ne - se) + 2 * (n - s)

    magnitude = tl.sqrt(gx * gx + gy * gy)
    if window > 0:
        row_weight = tl.load(gaussian + y % window, mask=inside, other=0)
        magnitude = magnitude * row_weight * tl.load(gaussian + x % window, mask=inside, other=0)
    bins = _bins(gx, gy, cotangents, NBINS, INT, COMPUTE)

    b = tl.arange(0, BINS)[:, None]
    histogram = tl.zeros((BINS, CELLS), COMPUTE)
    for k in range(NBINS):
        in_bin = tl.where(bins == k, magnitude, 0)
        histogram = tl.where(b == k, tl.sum(tl.sum(in_bin, axis=0), axis=1)[None, :], histogram)
    norm = tl.sqrt(tl.sum(histogram * histogram, axis=0))
    # Not tl.maximum: a NaN must stay one. (EPS as an argument or in tl.where would be float32.)
    least = tl.full(norm.shape, EPS, COMPUTE)
    histogram = histogram / tl.where(norm < least, least, norm)[None, :]
    if LISTED:
        histogram = tl.where(known[None, :], histogram, float("nan"))

    slot = entry
    if not (MASKED or LISTED):
        slot = entry * slots + (row // patch_h) * patches_per_row + column // patch_w
    at = ((slot * channels + channel) * NBINS * patch_h + row % patch_h) * patch_w
    at = (at + column % patch_w)[None, :] + b.to(tl.int64) * patch_h * patch_w
    tl.store(out + at, histogram, mask=(b < NBINS) & exists[None, :])


@functools.lru_cache(maxsize=64)
def _tables(nbins: int, window: int, dtype: torch.dtype, device: torch.device):
    """cot(k pi / nbins) for k = 1 .. nbins // 2, and one axis of the Gaussian tile."""
    cotangents = [1 / math.tan(k * math.pi / nbins) for k in range(1, nbins // 2 + 1)]
    for k in range(1, nbins // 2 + 1):  # the rational ones exactly: ties depend on them
        if 2 * k == nbins:
            cotangents[k - 1] = 0.0
        elif 4 * k == nbins:
            cotangents[k - 1] = 1.0
    offsets = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    axis = torch.exp(-0.5 * (offsets / max(window // 2, 1)) ** 2)
    table = torch.tensor(cotangents or [0.0], dtype=torch.float64)
    axis = axis / axis.sum() if window else table
    return table.to(device, dtype), axis.to(device, dtype)


def _launch(images, out, nbins, cell, window, eps, slots, patch_h, patch_w, mask=None, ids=None):
    if out.numel() == 0:
        return out
    batch, channels, height, width = images.shape
    by_patch = mask is not None or ids is not None
    region_h, region_w = (patch_h, patch_w) if by_patch else (height // cell, width // cell)
    side = triton.next_power_of_2(cell)
    bins = triton.next_power_of_2(nbins)
    # What a program holds in registers, pixels and bins. The interpreter pays by the program.
    pixels, sums = (1024, 4096) if images.is_cuda else (1 << 16, 1 << 20)
    cells = max(1, min(pixels // (side * side), sums // bins))
    total = batch * channels * region_h * region_w * (slots if by_patch else 1)
    wide = images.dtype == torch.float64
    cotangents, gaussian = _tables(nbins, window, out.dtype, images.device)
    across = width // (cell * patch_w)
    _hog_kernel[(triton.cdiv(total, cells),)](
        images, out, cotangents, gaussian,
        mask.view(torch.uint8) if mask is not None else out, ids if ids is not None else out,
        channels, height, width, *images.stride(), cell, window,
        total, region_h, region_w, slots, patch_h, patch_w,
        across, across * (height // (cell * patch_h)),
        MASKED=mask is not None, LISTED=ids is not None,
        COMPUTE=tl.float64 if wide else tl.float32, INT=tl.int64 if wide else tl.int32,
        EPS=eps, NBINS=nbins, SIDE=side, CELLS=cells, BINS=bins,
    )  # fmt: skip
    return out


# A program holds whole cells in registers: larger ones than this are the reference's.
MAX_CELL = 32


def _new_output(images: Tensor, *size: int) -> Tensor:
    wide = images.dtype == torch.float64
    return images.new_empty(size, dtype=torch.float64 if wide else torch.float32)


def hog(images: Tensor, nbins: int, cell_size: int, gaussian_window: int, eps: float) -> Tensor:
    """Launcher of `ssl_fast::hog`; cells over MAX_CELL go to the reference."""
    if cell_size > MAX_CELL:
        return reference.hog(images, nbins, cell_size, gaussian_window, eps)
    batch, channels, height, width = images.shape
    rows, columns = height // cell_size, width // cell_size
    out = _new_output(images, batch, channels, nbins, rows, columns)
    return _launch(images, out, nbins, cell_size, gaussian_window, eps, 1, rows, columns)


def hog_tokens(
    images: Tensor,
    patch_size: int,
    nbins: int,
    cell_size: int,
    gaussian_window: int,
    eps: float,
    mask: Tensor | None = None,
    ids: Tensor | None = None,
) -> Tensor:
    """Launcher of `ssl_fast::hog_tokens`; cells over MAX_CELL go to the reference."""
    options = (nbins, cell_size, gaussian_window, eps)
    if cell_size > MAX_CELL:
        return reference.hog_tokens(images, patch_size, *options, mask, ids)
    batch, channels, height, width = images.shape
    u = patch_size // cell_size
    slots = (height // patch_size) * (width // patch_size) if ids is None else ids.shape[1]
    out = _new_output(images, batch, slots, channels * nbins * u * u)
    mask = mask.contiguous() if mask is not None else None
    ids = ids.contiguous() if ids is not None else None
    return _launch(images, out, *options, slots, u, u, mask, ids)
