"""Samples of the mask samplers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...ops.masks.arguments import block_law, cube_law, ibot_law
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
    one = torch.tensor([4])
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
    yield sample("filled by cells: one row", (1, 100), 9, one)
    yield sample("filled by cells: mmpretrain's border", (3, 4), 10, one, compat="mmpretrain")
    yield sample("nothing masked", (5, 5), 0)
    yield sample("all masked", (4, 6), 24)


@samples_of("random_mask", (torch.int64,))
def random_mask(dtype: torch.dtype) -> Iterator[Sample]:
    """The same calls whatever the dtype: all inputs are int64."""

    def sample(
        name: str, length: int, kept: int, ids: Tensor | None = None, seed: int = 7
    ) -> Sample:
        count = 3 if ids is None else len(ids)
        return Sample(name, (torch.tensor([seed]), ids, count, length, kept), exact=True)

    large = torch.tensor([2**63 - 1, -1, 2**32, 5 - 2**63])
    yield sample("mae", 196, 49)
    yield sample("ids and seed of 64 bits", 30, 7, large, seed=-(2**63))
    yield sample("ids with a stride", 50, 12, torch.arange(10)[1::3])
    yield sample("ids with stride 0", 50, 12, torch.tensor([9]).expand(3))
    yield sample("no ids", 196, 49, torch.arange(0))
    yield sample("all kept", 65, 65)
    yield sample("none kept", 64, 0)
    yield sample("one token", 1, 1)
    yield sample("one token, masked", 1, 0)
    yield sample("several programs", 4100, 1025, torch.arange(2))


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@samples_of("random_mask_from_noise", FLOATS)
def random_mask_from_noise(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, noise: Tensor, kept: int) -> Sample:
        return Sample(name, (noise, kept), exact=True)

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 120, generator=generator, dtype=torch.float64).to(dtype)
    coarse = (noise * 2).round() / 2  # ties, and zeros of both signs
    extreme = noise.clone()
    extreme[:, ::9] = torch.nan
    extreme[:, 4::9] = -torch.nan
    extreme[:, 1::9], extreme[:, 2::9] = torch.inf, -torch.inf
    extreme[0, 3::9], extreme[1, 3::9] = torch.finfo(dtype).max, torch.finfo(dtype).tiny / 2
    yield sample("normal", noise, 30)
    yield sample("ties", coarse, 30)
    yield sample("constant", torch.full((2, 70), 0.5, dtype=dtype), 30)
    yield sample("nan and infinity", extreme, 70)
    yield sample("transposed, every second row", noise.t()[:20:2], 1)
    yield sample("one row for all", noise[:1].expand(3, 120)[:, :30], 20)
    yield sample("empty batch", noise[:0], 50)
    yield sample("one token", noise[:, :1], 1)
    yield sample("several programs", noise[:1].repeat(1, 20) + 1, 1000)


@samples_of("cube_mask", (torch.int64,))
def cube_mask(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(
        name: str,
        grid: tuple[int, int, int],
        ratio: float,
        ids: Tensor | None = None,
        seed: int = 7,
        **options: Any,
    ) -> Sample:
        named = {"min_block": None, "max_block": None, "min_aspect": 0.3, "max_aspect": None}
        law = cube_law(grid, ratio, **{**named, **options})
        ids = torch.arange(3) if ids is None else ids
        return Sample(name, (torch.tensor([seed]), ids, *law), exact=True)

    large = torch.tensor([2**63 - 1, -1, 2**32, 5 - 2**63])
    yield sample("maskfeat", (8, 7, 7), 0.4, torch.arange(2))
    yield sample("ids and seed of 64 bits", (4, 8, 8), 0.9, large, seed=-(2**63))
    yield sample("ids with a stride", (3, 6, 5), 0.5, torch.arange(10)[1::3])
    yield sample("no ids", (3, 6, 5), 0.5, torch.arange(0))
    yield sample("one frame", (1, 9, 9), 0.4)
    yield sample("small blocks", (5, 6, 20), 0.6, min_block=2, max_block=9, max_aspect=0.8)
    yield sample("no block fits", (4, 1, 9), 0.5, torch.tensor([4]))
    yield sample("nothing masked", (2, 4, 4), 0)
    yield sample("all asked for", (2, 4, 4), 1, min_block=1)


@samples_of("ibot_mask", (torch.int64,))
def ibot_mask(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(
        name: str,
        grid: tuple[int, int],
        ratio: tuple[float, float] = (0.1, 0.5),
        probability: float = 0.5,
        ids: Tensor | None = None,
        seed: int = 7,
        **options: Any,
    ) -> Sample:
        ids = torch.arange(6) if ids is None else ids
        named = {"min_block": 4, "max_block": None, "min_aspect": 0.3, "max_aspect": None}
        law = ibot_law(len(ids), grid, ratio, probability, **{**named, **options})
        return Sample(name, (torch.tensor([seed]), ids, *law), exact=True)

    large = torch.tensor([2**63 - 1, -1, 2**32, 5 - 2**63])
    yield sample("dinov2", (16, 16))
    yield sample("ids and seed of 64 bits", (14, 14), (0.2, 0.9), 0.9, large, seed=-(2**63))
    yield sample("all samples, to a tenth", (7, 30), (0, 0.1), 1)
    yield sample("keys that are equal", (8, 8), (0.3, 0.3), 0.5, torch.tensor([4]).expand(5))
    yield sample("several chunks of keys", (4, 4), (0.5, 1), 0.05, torch.arange(70), min_block=1)
    yield sample("no samples masked", (8, 8), probability=0.1)
    yield sample("no ids", (8, 8), ids=torch.arange(0))
    yield sample("one row", (1, 20))
    yield sample("all cells asked for", (5, 5), (1, 1), 1, min_block=1)


@samples_of("multiblock_mask", (torch.int64,))
def multiblock_mask(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(
        name: str,
        grid: tuple[int, int],
        targets: tuple[int, int, int],
        contexts: tuple[int, int, int],
        min_keep: int = 3,
        overlap: bool = False,
        exclusive: bool = False,
        ids: Tensor | None = None,
        seed: int = 7,
    ) -> Sample:
        ids = torch.arange(3) if ids is None else ids
        law = (*grid, *targets, *contexts, min_keep, overlap, exclusive)
        return Sample(name, (torch.tensor([seed]), ids, *law), exact=True)

    large = torch.tensor([2**63 - 1, -1, 2**32, 5 - 2**63])
    yield sample("i-jepa", (14, 14), (4, 6, 5), (1, 13, 13), 10)
    yield sample("ids and seed of 64 bits", (9, 9), (3, 4, 4), (2, 7, 7), ids=large, seed=-(2**63))
    yield sample("its code", (14, 14), (4, 6, 5), (1, 13, 13), 10, exclusive=True)
    yield sample("overlap", (8, 8), (2, 5, 5), (2, 6, 6), overlap=True)
    yield sample("targets are left out", (8, 8), (4, 7, 7), (2, 5, 5), 24)
    yield sample("many tries", (8, 8), (2, 4, 4), (1, 4, 4), 13)
    yield sample("whole grid", (4, 6), (1, 4, 6), (1, 4, 6), 0)
    yield sample("rows of several words", (3, 150), (2, 2, 70), (1, 3, 140))
    yield sample("one row", (1, 20), (2, 1, 4), (1, 1, 15))
    yield sample("no ids", (8, 8), (2, 3, 3), (1, 7, 7), ids=torch.arange(0))
    yield sample("ids with a stride", (8, 8), (2, 3, 3), (1, 7, 7), ids=torch.arange(10)[1::3])
