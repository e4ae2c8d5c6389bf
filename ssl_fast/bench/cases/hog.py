"""HOG as MaskFeat makes it: 224 x 224, 9 bins, cells of 8, a Gaussian window of 16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ..._dispatch import OPS
from ..case import Case, Check, Inputs
from ..providers import growing, others, peer, standard

METHOD = "MaskFeat ViT-B at 224"
SIZE, PATCH, NBINS, CELL, WINDOW, EPS = 224, 16, 9, 8, 16, 1e-12
TOKENS = (SIZE // PATCH) ** 2
WANTED = 78  # MaskFeat masks 40 % of 196
TOKEN_BYTES = 3 * NBINS * (PATCH // CELL) ** 2 * 4  # float32 out
IMAGE_BYTES = 3 * SIZE * SIZE
HEADLINE = {(torch.float32, "all"), (torch.uint8, "all"), (torch.uint8, "ids")}
DTYPES = (torch.float32, torch.uint8, torch.bfloat16)
# Rounding turns the bin of single pixels of random floats, and with it a cell of bins; among
# integers there is nothing to turn, whoever computes in float32.
FLOATS = {"atol": 1e-5, "share": 0.9999}
INTEGERS = {"atol": 1e-6}


def cases(device: str, small: bool) -> Iterator[Case]:
    """`hog` and `hog_tokens`: all tokens, the masked ones, and the masked ones compact."""
    batch = 2 if small else 256 if device == "cuda" else 32
    for dtype in DTYPES[:1] if small else DTYPES:
        yield _hog(batch, dtype)
        for choice in ("all", "mask", "ids"):
            yield _tokens(batch, dtype, choice)


def growth(device: str, small: bool) -> Iterator[Case]:
    """Over the image's side: cells, for mmpretrain makes tokens of 14 x 14 units only."""
    batch = 2 if small else 128 if device == "cuda" else 8
    for side in (32, 64) if small else (64, 128, 224, 512):
        yield growing(_hog(batch, torch.float32, side), "side", side)


def _images(
    batch: int, side: int, device: str, seed: int, dtype: torch.dtype, integers: bool
) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    shape = (batch, 3, side, side)
    if integers:
        values = torch.randint(0, 256, shape, device=device, generator=generator)
    else:
        values = torch.randn(shape, device=device, generator=generator)
    return values.to(dtype)


def _chosen(batch: int, device: str, seed: int) -> Tensor:
    """[batch, WANTED] int64: which tokens of each image are masked, ascending."""
    generator = torch.Generator(device).manual_seed(seed)
    order = torch.rand(batch, TOKENS, device=device, generator=generator).argsort(dim=1)
    return order[:, :WANTED].sort(dim=1).values


def _checks(
    batch: int, side: int, dtype: torch.dtype, extra: Callable[[str, int], Inputs]
) -> tuple[Check, ...]:
    def inputs(integers: bool) -> Callable[[str, int], Inputs]:
        return lambda device, seed: (
            _images(batch, side, device, seed, dtype, integers),
            *extra(device, seed),
        )

    integers = Check("integer-valued images", inputs(True), **INTEGERS)
    if dtype == torch.uint8:
        return (integers,)
    return Check("normal images", inputs(False), **FLOATS), integers


def _hog(batch: int, dtype: torch.dtype, side: int = SIZE) -> Case:
    def reference(images: Tensor) -> Tensor:
        return OPS["hog"].reference(images, NBINS, CELL, WINDOW, EPS)

    def public(images: Tensor) -> Tensor:
        return ops.hog(images, NBINS, CELL, WINDOW)

    output = 3 * NBINS * (side // CELL) ** 2 * 4
    return Case(
        op="hog",
        name=f"{METHOD if side == SIZE else 'MaskFeat'}: {batch}x3x{side}x{side}",
        dtype=_name(dtype),
        reference=reference,
        checks=_checks(batch, side, dtype, lambda device, seed: ()),
        moved_bytes=batch * (3 * side * side * dtype.itemsize + output),
        providers=(
            *standard("hog", public, reference),
            *others("mmpretrain", _mmpretrain("cells"), ("mmpretrain",)),
        ),
        theirs="mmpretrain",
    )


def _tokens(batch: int, dtype: torch.dtype, choice: str) -> Case:
    def reference(images: Tensor, chosen: Tensor | None = None) -> Tensor:
        mask, ids = _as_mask_or_ids(choice, chosen)
        options = (PATCH, NBINS, CELL, WINDOW, EPS)
        return OPS["hog_tokens"].reference(images, *options, mask, ids)

    def public(images: Tensor, chosen: Tensor | None = None) -> Tensor:
        mask, ids = _as_mask_or_ids(choice, chosen)
        return ops.hog_tokens(images, PATCH, NBINS, CELL, WINDOW, mask=mask, ids=ids)

    def extra(device: str, seed: int) -> Inputs:
        if choice == "all":
            return ()
        ids = _chosen(batch, device, seed)
        if choice == "ids":
            return (ids,)
        mask = torch.zeros(batch, TOKENS, dtype=torch.bool, device=device)
        return (mask.scatter_(1, ids, True),)

    amount = "all" if choice == "all" else f"{WANTED} by {choice}"
    return Case(
        op="hog_tokens",
        name=f"{METHOD}: {batch}x3x{SIZE}x{SIZE}, {amount}",
        dtype=_name(dtype),
        reference=reference,
        checks=_checks(batch, SIZE, dtype, extra),
        moved_bytes=batch * _token_bytes(choice, dtype.itemsize),
        providers=(
            *standard("hog_tokens", public, reference),
            *others("mmpretrain", _mmpretrain(choice), ("mmpretrain",)),
        ),
        theirs="mmpretrain",
        headline=(dtype, choice) in HEADLINE,
    )


def _as_mask_or_ids(choice: str, chosen: Any) -> tuple[Any, Any]:
    return (chosen, None) if choice == "mask" else (None, chosen)


def _token_bytes(choice: str, itemsize: int) -> int:
    """Of one image: the patches that are wanted, without their halo, the choice, the output."""
    if choice == "all":
        return IMAGE_BYTES * itemsize + TOKENS * TOKEN_BYTES
    pixels = WANTED * 3 * PATCH * PATCH * itemsize
    if choice == "ids":
        return pixels + WANTED * (8 + TOKEN_BYTES)
    return pixels + TOKENS * (1 + TOKEN_BYTES)


def _mmpretrain(choice: str) -> Callable[[str], Callable[..., Tensor]]:
    """mmpretrain's module takes float32 and makes all tokens; these are selected afterwards."""

    def prepare(device: str) -> Callable[..., Tensor]:
        make = peer("mmpretrain_peer").hog_generator
        generator = make(NBINS, CELL, WINDOW, tokens=choice != "cells").to(device)

        def tokens(images: Tensor, chosen: Tensor | None = None) -> Tensor:
            features = generator(images.float())
            if chosen is None:
                return features
            if choice == "mask":
                return torch.where(chosen[..., None], features, 0)
            return torch.take_along_dim(features, chosen[..., None], dim=1)

        return tokens

    return prepare


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
