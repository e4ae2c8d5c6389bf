"""Mask sampling: BEiT's block masks of 14 x 14 patches, 75 masked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import host, ops
from ..._dispatch import OPS
from ...ops.masks.arguments import block_law
from ..case import Case, Check, Inputs, Provider, Skipped
from ..providers import standard

GRID, MASKED = (14, 14), 75
MIN_BLOCK, MIN_ASPECT = 4, 0.3


class MaskedCells(Check):
    """Masks of other random numbers agree in their number of cells; the tests compare our bits."""

    def view(self, output: Tensor) -> Tensor:
        return output.sum(dim=(1, 2))


def cases(device: str, small: bool) -> Iterator[Case]:
    """`block_mask` of a batch, and of one image, as a data loader's worker calls it."""
    yield _block_mask(4 if small else 256)
    if not small:
        yield _block_mask(1)


def _block_mask(batch: int) -> Case:
    law = block_law(GRID, MASKED, MIN_BLOCK, None, MIN_ASPECT, None, None)

    def reference(seed: Tensor) -> Tensor:
        return OPS["block_mask"].reference(seed, torch.arange(batch, device=seed.device), *law)

    def public(seed: Tensor) -> Tensor:
        return ops.block_mask(batch, GRID, MASKED, seed=seed)

    def inputs(device: str, seed: int) -> Inputs:
        return (torch.tensor([seed], device=device),)

    def on_host(seed: Tensor) -> Tensor:
        return torch.from_numpy(host.block_mask(batch, GRID, MASKED, seed=int(seed)))

    def python_loop(seed: Tensor) -> Tensor:
        rng = np.random.RandomState(int(seed))
        return torch.from_numpy(np.stack([mask_in_python(rng) for _ in range(batch)]))

    # The reference tries until all images are done: torch.compile has no loop for that.
    own = (p for p in standard("block_mask", public, reference) if p.name != "reference compiled")
    return Case(
        op="block_mask",
        name=f"{batch} of {GRID[0]}x{GRID[1]}, {MASKED} masked",
        dtype="bool",
        reference=reference,
        checks=(MaskedCells("cells masked in each image", inputs, atol=0.0),),
        moved_bytes=batch * (math.prod(GRID) + 8),
        providers=(
            *own,
            Provider("host (NumPy)", _on_cpu(on_host)),
            Provider("Python loop, mmpretrain's law", _on_cpu(python_loop)),
        ),
    )


def _on_cpu(function: Callable[[Tensor], Tensor]) -> Callable[[str], Callable[..., Any]]:
    def prepare(device: str) -> Callable[[Tensor], Tensor]:
        if device != "cpu":
            raise Skipped("timed on the CPU only")
        return function

    return prepare


def mask_in_python(rng: np.random.RandomState) -> NDArray[np.bool_]:
    """One mask by the algorithm of mmpretrain's BEiTMaskGenerator, in plain Python over NumPy."""
    mask = np.zeros(GRID, bool)
    remaining = MASKED
    while remaining:
        remaining -= _try_blocks(mask, remaining, rng)
    return mask


def _try_blocks(mask: NDArray[np.bool_], cap: int, rng: np.random.RandomState) -> int:
    """Masks the first acceptable one of ten blocks; returns its number of new cells, or 0."""
    height, width = mask.shape
    log_aspect = -math.log(MIN_ASPECT)
    for _ in range(10):
        area = rng.uniform(MIN_BLOCK, cap)
        aspect = math.exp(rng.uniform(-log_aspect, log_aspect))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h >= height or w >= width:
            continue
        top, left = rng.randint(height - h), rng.randint(width - w)
        block = mask[top : top + h, left : left + w]
        new = h * w - int(block.sum())
        if 0 < new <= cap:
            block[:] = True
            return new
    return 0
