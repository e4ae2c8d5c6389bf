"""Mask sampling: BEiT's blocks, MAE's and SimMIM's random masks, a batch of DINOv2's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import host, ops
from ..._dispatch import OPS
from ...ops.masks.arguments import block_law, ibot_law
from ..case import Case, Check, Inputs, Provider
from ..providers import growing, on, peer, standard

GRID, MASKED = (14, 14), 75
MIN_BLOCK, MIN_ASPECT = 4, 0.3
LENGTH, RATIO = 196, 0.75
Sampler = Callable[[Tensor], Any]


class MaskedCells(Check):
    """Masks of other random numbers agree in their number of cells; the tests compare our bits."""

    def view(self, output: Tensor) -> Tensor:
        return output.sum(dim=(1, 2))


class Permutations(Check):
    """The same for `random_mask`: places are a permutation, the right number is masked."""

    def view(self, output: Tensor) -> Tensor:
        whole = output.shape[1] == LENGTH
        return output.sort(dim=1).values if whole else torch.zeros_like(output)


class MaskedCrops(Check):
    """The same for a batch of crops, of which some are masked."""

    def view(self, output: Tensor) -> Tensor:
        return output.flatten(1).any(dim=1).sum()


def cases(device: str, small: bool) -> Iterator[Case]:
    """Batches, and single images, as a data loader's worker asks for them."""
    batch = 4 if small else 256
    yield replace(_block_mask(batch), headline=True)
    yield replace(_random_mask(batch), headline=True)
    yield _random_mask_from_noise(batch)
    yield _simmim_mask(batch)
    crops = _ibot_mask(4 if small else 128, (16, 16))
    yield replace(crops, headline=device == "cuda")
    if not small:
        yield _block_mask(1)
        yield _random_mask(1)
        yield _simmim_mask(1)
        yield replace(_ibot_mask(128, (37, 37)), headline=device == "cuda")


def growth(device: str, small: bool) -> Iterator[Case]:
    """Over the number of masks."""
    for count in (2, 4) if small else (16, 64, 256, 1024):
        yield growing(_block_mask(count), "N", count)


def _seeds(device: str, seed: int) -> Inputs:
    return (torch.tensor([seed], device=device),)


def _block_mask(batch: int) -> Case:
    law = block_law(GRID, MASKED, MIN_BLOCK, None, MIN_ASPECT, None, None)

    def reference(seed: Tensor) -> Tensor:
        return OPS["block_mask"].reference(seed, torch.arange(batch, device=seed.device), *law)

    def public(seed: Tensor) -> Tensor:
        return ops.block_mask(batch, GRID, MASKED, seed=seed)

    def on_host(seed: Tensor) -> Tensor:
        return torch.from_numpy(host.block_mask(batch, GRID, MASKED, seed=int(seed)))

    def mmpretrain(device: str) -> Sampler:
        draw = peer("mmpretrain_peer").beit_masks(batch, GRID, MASKED, MIN_BLOCK)
        return lambda seed: draw().to(seed.device)

    return Case(
        op="block_mask",
        name=f"BEiT: {batch} of {GRID[0]}x{GRID[1]}, {MASKED} masked",
        dtype="bool",
        reference=reference,
        checks=(MaskedCells("cells masked in each image", _seeds, atol=0.0),),
        moved_bytes=batch * (math.prod(GRID) + 8),
        providers=(
            *_without_compile(standard("block_mask", public, reference)),
            Provider("host (NumPy)", on("cpu", lambda device: on_host)),
            Provider("mmpretrain", mmpretrain, packages=("mmpretrain",)),
        ),
        theirs="mmpretrain",
    )


def _without_compile(providers: tuple[Provider, ...]) -> Iterator[Provider]:
    """The references try until all images are done: torch.compile has no loop for that."""
    left_out = ("reference compiled", "reference max-autotune")
    return (provider for provider in providers if provider.name not in left_out)


def _noise(batch: int) -> Callable[[str, int], Inputs]:
    def inputs(device: str, seed: int) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.rand(batch, LENGTH, generator=generator)
        return torch.tensor([seed], device=device), noise.to(device)

    return inputs


def _random_bytes(batch: int) -> int:
    return batch * (8 + 8 * int(LENGTH * (1 - RATIO)) + 12 * LENGTH)


def _random_mask(batch: int) -> Case:
    """Keys of our own against random numbers of torch's."""
    kept = int(LENGTH * (1 - RATIO))

    def reference(seed: Tensor) -> tuple[Tensor, ...]:
        return OPS["random_mask"].reference(seed, None, batch, LENGTH, kept)

    def public(seed: Tensor) -> tuple[Tensor, ...]:
        return ops.random_mask(batch, LENGTH, RATIO, seed=seed)

    def on_host(seed: Tensor) -> tuple[Tensor, ...]:
        arrays = host.random_mask(batch, LENGTH, RATIO, seed=int(seed))
        return tuple(map(torch.from_numpy, arrays))

    def of(package: str) -> Callable[[str], Sampler]:
        def prepare(device: str) -> Sampler:
            draw = peer(f"{package}_peer").random_ids(batch, LENGTH, RATIO, device)
            return lambda seed: draw()

        return prepare

    return Case(
        op="random_mask",
        name=f"MAE at 224: {batch} of {LENGTH}, {kept} kept",
        dtype="int64",
        reference=reference,
        checks=(Permutations("permutations", _seeds, atol=0.0),),
        moved_bytes=_random_bytes(batch),
        providers=(
            *standard("random_mask", public, reference),
            Provider("host (NumPy)", on("cpu", lambda device: on_host)),
            Provider("mmpretrain", of("mmpretrain"), packages=("mmpretrain",)),
            Provider("lightly, completed", of("lightly"), packages=("lightly",)),
        ),
        theirs="mmpretrain",
    )


def _random_mask_from_noise(batch: int) -> Case:
    kept = int(LENGTH * (1 - RATIO))

    def reference(seed: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        return OPS["random_mask_from_noise"].reference(noise, kept)

    def public(seed: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        return ops.random_mask(batch, LENGTH, RATIO, noise=noise)

    return Case(
        op="random_mask_from_noise",
        name=f"MAE at 224: {batch} of {LENGTH}, {kept} kept",
        dtype="float32",
        reference=reference,
        checks=(Check("uniform noise", _noise(batch), atol=0.0),),
        moved_bytes=_random_bytes(batch) + 4 * batch * LENGTH,
        providers=(
            *standard("random_mask_from_noise", public, reference),
            Provider("MAE's two argsorts", lambda device: lambda seed, noise: mae(noise)),
        ),
        theirs="MAE's two argsorts",
    )


def mae(noise: Tensor) -> tuple[Tensor, ...]:
    """Masks by the algorithm of MAE's random_masking, but stable: the noise may have equals."""
    kept = int(noise.shape[1] * (1 - RATIO))
    order = torch.argsort(noise, dim=1, stable=True)
    ids_restore = torch.argsort(order, dim=1, stable=True)
    mask = torch.ones(noise.shape, device=noise.device)
    mask[:, :kept] = 0
    return order[:, :kept], ids_restore, torch.gather(mask, 1, ids_restore)


def _simmim_mask(batch: int) -> Case:
    def reference(seed: Tensor) -> Tensor:
        mask = OPS["random_mask"].reference(seed, None, batch, 36, 14)[2].bool().view(batch, 6, 6)
        return mask.repeat_interleave(8, 1).repeat_interleave(8, 2)

    def public(seed: Tensor) -> Tensor:
        return ops.simmim_mask(batch, seed=seed)

    def on_host(seed: Tensor) -> Tensor:
        return torch.from_numpy(host.simmim_mask(batch, seed=int(seed)))

    def mmpretrain(device: str) -> Sampler:
        draw = peer("mmpretrain_peer").simmim_masks(batch)
        return lambda seed: draw().to(seed.device)

    return Case(
        op="random_mask",
        name=f"SimMIM at 192: {batch} of 48x48, 1408 masked",
        dtype="bool",
        reference=reference,
        checks=(MaskedCells("cells masked in each image", _seeds, atol=0.0),),
        moved_bytes=batch * (48 * 48 + 8),
        providers=(
            *standard("random_mask", public, reference),
            Provider("host (NumPy)", on("cpu", lambda device: on_host)),
            Provider("mmpretrain", mmpretrain, packages=("mmpretrain",)),
        ),
        theirs="mmpretrain",
    )


def _ibot_mask(batch: int, grid: tuple[int, int]) -> Case:
    law = ibot_law(batch, grid, (0.1, 0.5), 0.5, MIN_BLOCK, None, MIN_ASPECT, None)

    def reference(seed: Tensor) -> Tensor:
        return OPS["ibot_mask"].reference(seed, torch.arange(batch, device=seed.device), *law)

    def public(seed: Tensor) -> Tensor:
        return ops.ibot_mask(batch, grid, seed=seed).mask.view(batch, *grid)

    def on_host(seed: Tensor) -> Tensor:
        mask = host.ibot_mask(batch, grid, seed=int(seed)).mask
        return torch.from_numpy(mask).view(batch, *grid)

    def python_loop(seed: Tensor) -> Tensor:
        collated = collate_in_python(batch, grid, np.random.RandomState(int(seed)))
        return collated.to(seed.device)

    def lightly(device: str) -> Sampler:
        draw = peer("lightly_peer").ibot_masks(batch, grid, device)
        return lambda seed: draw()

    return Case(
        op="ibot_mask",
        name=f"DINOv2: {batch} of {grid[0]}x{grid[1]}, half of them masked",
        dtype="bool",
        reference=reference,
        checks=(MaskedCrops("number of masked crops", _seeds, atol=0.0),),
        moved_bytes=batch * (math.prod(grid) + 8) + 12 * law.upper_bound,
        providers=(
            *_without_compile(standard("ibot_mask", public, reference)),
            Provider("host (NumPy)", on("cpu", lambda device: on_host)),
            Provider("DINOv2's steps", lambda device: python_loop),
            Provider("lightly, masks alone", lightly, packages=("lightly",)),
        ),
        theirs="DINOv2's steps",
    )


def collate_in_python(batch: int, grid: tuple[int, int], rng: np.random.RandomState) -> Tensor:
    """The steps of DINOv2's collate, which is in no package: masks, indices and weights."""
    cells, masked = math.prod(grid), batch // 2
    ratios = np.linspace(0.1, 0.5, masked + 1)
    masks = [np.zeros(grid, bool) for _ in range(batch)]
    for mask, low, high in zip(masks, ratios[:-1], ratios[1:], strict=False):
        remaining = int(cells * rng.uniform(low, high))
        while remaining:
            new = _try_blocks(mask, min(remaining, cells // 2), rng)
            remaining = remaining - new if new else 0
    rng.shuffle(masks)
    collated = torch.from_numpy(np.stack(masks)).flatten(1)
    collated.flatten().nonzero().flatten()
    (1 / collated.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(collated)[collated]
    return collated.view(batch, *grid)


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
        top, left = rng.randint(height - h + 1), rng.randint(width - w + 1)
        block = mask[top : top + h, left : left + w]
        new = h * w - int(block.sum())
        if 0 < new <= cap:
            block[:] = True
            return new
    return 0
