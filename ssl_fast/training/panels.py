"""Pictures of what a model sees and predicts: one row a sample, one column a kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..nn import HOGGenerator
from .files import write_atomically

TILE = 128  # least side of a tile in pixels: smaller images are enlarged
GAP = 8  # pixels between tiles and around them
FONT_SIZE = 16
SMALL_VIEWS = 2  # of multi-crop's, shown
MASKED = 127  # gray of a masked patch
BACKGROUND, INK = (255, 255, 255), (0, 0, 0)


def save_panel(
    path: str | os.PathLike[str],
    columns: Sequence[tuple[str, Any]],
    *,
    rows: int | None = None,
) -> None:
    """Writes a PNG with a title over each column and an image of it in each row.

    Images with a side below 128 pixels are enlarged by a whole factor, without smoothing.

    Args:
        path: the file to write, in one step; its folder exists.
        columns: titles with their images, tensors or arrays, uint8, [N, H, W, 3] or [N, H, W].
        rows: samples to show; None for all, and all where there are fewer.

    Raises:
        TypeError: for images that are not uint8.
        ValueError: for images of another shape, unequal N, no column or no row.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not columns:
        raise ValueError("columns is empty; expected pairs of a title and images")
    if rows is not None and rows < 1:
        raise ValueError(f"rows is {rows}; expected 1 or more, or None")
    tiles = [_tiles(title, images) for title, images in columns]
    counts = [len(column) for column in tiles]
    if len(set(counts)) > 1 or not counts[0]:
        raise ValueError(f"columns have {counts} images; expected the same number, 1 or more")
    count = counts[0] if rows is None else min(rows, counts[0])

    font = ImageFont.load_default(FONT_SIZE)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    titles = [ruler.textbbox((0, 0), title, font=font) for title, _ in columns]
    widths = [
        max(column.shape[2], round(box[2])) for column, box in zip(tiles, titles, strict=True)
    ]
    height = max(column.shape[1] for column in tiles)
    top = round(max(box[3] for box in titles)) + 2 * GAP
    size = (sum(widths) + GAP * (len(widths) + 1), top + count * (height + GAP))
    panel = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(panel)
    left = GAP
    for (title, _), column, width in zip(columns, tiles, widths, strict=True):
        draw.text((left, GAP), title, fill=INK, font=font)
        for row in range(count):
            panel.paste(Image.fromarray(column[row]), (left, top + row * (height + GAP)))
        left += width + GAP
    with write_atomically(path) as file:
        panel.save(file, format="PNG")


def masked_image(images: Tensor, mask: Tensor) -> Tensor:
    """Images with their masked patches gray.

    Args:
        images: [N, C, H, W] uint8.
        mask: [N, h, w], True or nonzero where a patch is masked; h divides H, w divides W.

    Returns:
        [N, C, H, W] uint8, new.

    Raises:
        TypeError: for images that are not uint8.
        ValueError: for other shapes.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images is {images.dtype}; expected torch.uint8")
    if images.dim() != 4 or mask.dim() != 3 or len(images) != len(mask):
        got = f"images has shape {tuple(images.shape)}, mask {tuple(mask.shape)}"
        raise ValueError(f"{got}; expected [N, C, H, W] and [N, h, w]")
    (height, width), (rows, columns) = images.shape[2:], mask.shape[1:]
    if not rows or not columns or height % rows or width % columns:
        raise ValueError(
            f"mask has {rows} x {columns} patches; expected numbers that divide {height} x {width}"
        )
    pixels = mask.to(images.device, torch.bool)
    pixels = pixels.repeat_interleave(height // rows, 1).repeat_interleave(width // columns, 2)
    return images.masked_fill(pixels[:, None], MASKED)


def view_columns(images: Tensor, views: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    """Columns of a panel: images and what a model sees of them.

    Args:
        images: [N, 3, S, S] uint8.
        views: [N, 3, s, s] uint8 each; those smaller than the images are enlarged to them, and the
            first two of them are shown.
    """
    size = images.shape[-2:]
    whole = [view for view in views if view.shape[-2:] == size]
    small = [view for view in views if view.shape[-2:] != size]
    columns = [("input", images)]
    columns += [(f"view {number}", view) for number, view in enumerate(whole, 1)]
    for number, view in enumerate(small[:SMALL_VIEWS], 1):
        side = view.shape[-1]
        enlarged = F.interpolate(view, size=tuple(size), mode="nearest-exact")
        columns.append((f"small view {number} ({side} px)", enlarged))
    return [(title, column.permute(0, 2, 3, 1)) for title, column in columns]


def hog_picture(
    tokens: Tensor,
    generator: HOGGenerator,
    *,
    size: Sequence[int] | None = None,
    scale: int = 1,
) -> Tensor:
    """Draws HOG features, targets or predictions, as `HOGGenerator.generate_hog_image` does.

    Lines are as bright as their bin is strong against the strongest of the same image; what is
    negative or NaN, as a prediction may be, is not drawn.

    Args:
        tokens: [N, L, 3 * nbins * u * u], of all patches of an image, u cells a side of a patch.
        generator: which made such tokens; not changed.
        size: height and width of the images in pixels; None for those of the generator's last call.
        scale: times that the picture is larger than the image. A line needs more than a few pixels:
            `tile_scale` makes the picture as large as `save_panel` would.

    Returns:
        [N, H * scale, W * scale] uint8, on the CPU.

    Raises:
        ValueError: for tokens that no such images give, or without a size before the first call.
    """
    height, width = size or (generator.h, generator.w)
    if not height or not width:
        raise ValueError("size is None and the generator has not seen images; pass a size")
    pool, nbins = generator.pool, generator.nbins
    u = generator._cells_per_token(height // pool, width // pool)
    rows, columns = height // (pool * u), width // (pool * u)
    expected = (rows * columns, 3 * nbins * u * u)
    if tokens.dim() != 3 or tuple(tokens.shape[1:]) != expected:
        raise ValueError(
            f"tokens has shape {tuple(tokens.shape)}; expected [N, {expected[0]}, {expected[1]}] "
            f"for images of {height} x {width} pixels"
        )
    # [N, rows, columns, 3, nbins, u, u] -> [N, 3, nbins, rows * u, columns * u]
    grid = tokens.detach().reshape(len(tokens), rows, columns, 3, nbins, u, u)
    cells = grid.permute(0, 3, 4, 1, 5, 2, 6).flatten(-2).flatten(-3, -2)
    pen = HOGGenerator(nbins, pool * scale, 0)
    picture = torch.empty(len(tokens), height * scale, width * scale, dtype=torch.uint8)
    for i in range(len(tokens)):
        picture[i] = torch.from_numpy(pen.generate_hog_image(cells[i : i + 1]))
    return picture


def tile_scale(height: int, width: int) -> int:
    """The whole factor by which `save_panel` enlarges images of this size in pixels."""
    return -(-TILE // min(height, width))


def _tiles(title: str, images: Any) -> np.ndarray:
    """[N, H, W, 3] or [N, H, W] as uint8 RGB, enlarged to at least TILE: [N, H * s, W * s, 3]."""
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.dtype != np.uint8:
        raise TypeError(f"images of {title!r} are {array.dtype}; expected uint8")
    if array.ndim == 3:
        array = array[..., None].repeat(3, axis=3)
    if array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape[1:]:
        got = tuple(images.shape)
        raise ValueError(
            f"images of {title!r} have shape {got}; expected [N, H, W, 3] or [N, H, W]"
        )
    scale = tile_scale(*array.shape[1:3])
    return np.ascontiguousarray(array.repeat(scale, axis=1).repeat(scale, axis=2))
