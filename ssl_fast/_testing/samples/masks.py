"""Samples of `block_mask`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...ops.masks.arguments import block_law
from .base import Sample, samples_of


@samples_of("block_mask", (torch.int64,))
def block_mask(dtype: torch.dtype) -> Iterator[Sample]:
    """The same calls whatever the dtype: all inputs are int64."""

    def sample(
        name: str,
        grid: tuple[int, int],
        num_masked: int,
        ids: Tensor | None = None,
        seed: int = 7,
        **options: Any,
    ) -> Sample:
        named = {"min_block": 4, "max_block": None, "min_aspect": 0.3, "max_aspect": None}
        law = block_law(grid, num_masked, **{**named, "compat": None, **options})
        ids = torch.arange(3) if ids is None else ids
        return Sample(name, (torch.tensor([seed]), ids, *law), exact=True)

    large = torch.tensor([2**63 - 1, -1, 2**32, 5 - 2**63])
    yield sample("beit", (14, 14), 75)
    yield sample("beit, mmpretrain", (14, 14), 75, compat="mmpretrain")
    yield sample("ids and seed of 64 bits", (14, 14), 75, large, seed=-(2**63))
    yield sample("ids with a stride", (8, 8), 26, torch.arange(10)[1::3])
    yield sample("ids with stride 0", (8, 8), 26, torch.tensor([9]).expand(3))
    yield sample("no ids", (14, 14), 75, torch.arange(0))
    yield sample("blocks of 5 to 30 cells", (20, 24), 200, min_block=5, max_block=30)
    yield sample("flat blocks", (12, 40), 120, min_aspect=0.05, max_aspect=0.5)
    yield sample("rows of several words", (6, 150), 300, max_aspect=0.5)
    yield sample("words that end with the grid", (8, 16), 50)
    yield sample("filled by cells: one row", (1, 100), 9)
    yield sample("filled by cells: mmpretrain's border", (3, 4), 10, compat="mmpretrain")
    yield sample("nothing masked", (5, 5), 0)
    yield sample("all masked", (4, 6), 24)
