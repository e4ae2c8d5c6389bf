"""HOG in plain torch: the specification, and what runs where no kernel can."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel gradients of [B, C, H, W], the border reflected: (gx, gy), each [B, C, H, W].

    gx is the cross-correlation with [[1, 0, -1], [2, 0, -2], [1, 0, -1]], gy with its transpose,
    formed from differences of opposite pixels, so that equal columns (rows) give exactly 0.
    """
    height, width = images.shape[-2:]
    # By rows and by columns: F.pad's reflection does not know every dtype and empty batch.
    y = torch.arange(-1, height + 1, device=images.device).abs()
    x = torch.arange(-1, width + 1, device=images.device).abs()
    y[-1], x[-1] = height - 2, width - 2
    padded = images.index_select(-2, y).index_select(-1, x)
    left, right = padded[..., :-2], padded[..., 2:]
    top, bottom = padded[..., :-2, :], padded[..., 2:, :]
    across, down = left - right, top - bottom
    gx = across[..., :-2, :] + across[..., 2:, :] + 2 * across[..., 1:-1, :]
    gy = down[..., :-2] + down[..., 2:] + 2 * down[..., 1:-1]
    return gx, gy


def gaussian_tile(window: int, height: int, width: int, like: Tensor) -> Tensor:
    """The Gaussian of side `window`, std window // 2, sum 1, tiled from the top left: [H, W]."""
    offsets = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    axis = torch.exp(-0.5 * (offsets / (window // 2)) ** 2)
    axis = (axis / axis.sum()).to(like)
    rows = axis[torch.arange(height, device=like.device) % window]
    columns = axis[torch.arange(width, device=like.device) % window]
    return rows[:, None] * columns


def hog(images: Tensor, nbins: int, cell_size: int, gaussian_window: int, eps: float) -> Tensor:
    """[B, C, H, W] to [B, C, nbins, H // cell_size, W // cell_size]."""
    images = images.detach().to(torch.float64 if images.dtype == torch.float64 else torch.float32)
    height, width = images.shape[-2:]
    gx, gy = gradients(images)
    magnitude = torch.sqrt(gx * gx + gy * gy)
    if gaussian_window:
        magnitude = magnitude * gaussian_tile(gaussian_window, height, width, magnitude)
    # A bin is a decision: taken in float64 whatever the images are.
    angle = torch.atan2(gx.double(), gy.double())
    bins = torch.floor(angle / math.pi * nbins).nan_to_num() % nbins
    histogram = []
    for b in range(nbins):  # one bin after the other: no tensor of nbins times the image
        in_bin = torch.where(bins == b, magnitude, 0)
        cells = in_bin.unflatten(-2, (-1, cell_size)).unflatten(-1, (-1, cell_size))
        histogram.append(cells.sum(dim=(-3, -1)))
    return F.normalize(torch.stack(histogram, dim=2), p=2.0, dim=2, eps=eps)


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
    """[B, C, H, W] to [B, L or K, C * nbins * u * u], u = patch_size // cell_size."""
    features = hog(images, nbins, cell_size, gaussian_window, eps)
    u = patch_size // cell_size
    # [B, C, nbins, rows, u, columns, u] -> [B, rows, columns, C, nbins, u, u]
    grid = features.unflatten(-2, (-1, u)).unflatten(-1, (-1, u))
    tokens = grid.permute(0, 3, 5, 1, 2, 4, 6).flatten(1, 2).flatten(2)
    if mask is not None:
        return torch.where(mask[..., None], tokens, 0)
    if ids is not None:
        return torch.take_along_dim(tokens, ids[..., None], dim=1)
    return tokens.contiguous()
