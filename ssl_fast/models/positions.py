"""Fixed positions of patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sincos_positions(grid: tuple[int, int], dim: int, num_prefix_tokens: int = 0) -> Tensor:
    """Fixed positions of a grid of patches: [num_prefix_tokens + L, dim], prefix tokens zero.

    A quarter of the channels each is the sine and cosine of the row and of the column, at
    frequencies from 1 down to 1 / 10,000 (Vaswani et al., 2017, in two dimensions).

    Raises:
        ValueError: if dim is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"dim is {dim}; expected a multiple of 4")
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = (torch.arange(n, dtype=torch.float64)[:, None] * frequencies for n in grid)
    angles = torch.cat(
        [
            columns[None].expand(grid[0], -1, -1),
            rows[:, None].expand(-1, grid[1], -1),
        ],
        dim=-1,
    ).flatten(0, 1)
    positions = torch.cat([angles.sin(), angles.cos()], dim=-1).float()
    return torch.cat([torch.zeros(num_prefix_tokens, dim), positions])


def fix_positions(vit: Any, grid: tuple[int, int]) -> None:
    """Replaces the learnt positions of a ViT of timm by `sincos_positions`, which stay.

    Args:
        vit: with `pos_embed` [1, P + L, D], where P prefix tokens have positions.
        grid: rows and columns of patches.
    """
    positions = vit.pos_embed[0]
    prefix = len(positions) - grid[0] * grid[1]
    fixed = sincos_positions(grid, positions.shape[1], prefix)
    vit.pos_embed.data.copy_(fixed[None])
    vit.pos_embed.requires_grad_(False)
