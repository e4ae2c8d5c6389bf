"""Histogram of oriented gradients: the targets of MaskFeat.

Source: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection" (2005), in the form
of Wei et al., "Masked Feature Prediction for Self-Supervised Visual Pre-Training" (2022).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._dispatch import register
from . import reference

MAX_BINS = 180
MAX_WINDOW = 512
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def hog(
    images: Tensor,
    nbins: int = 9,
    cell_size: int = 8,
    gaussian_window: int = 0,
    eps: float = 1e-12,
) -> Tensor:
    """Histogram of oriented gradients of every cell of an image.

    Per channel: Sobel gradients with a reflected border, magnitude sqrt(gx^2 + gy^2), angle
    atan2(gx, gy), hard bins floor(angle / pi * nbins) mod nbins, sums over cells, and an L2
    normalisation over the bins of a cell. The result is unchanged by a mean and std per channel:
    feed uint8 images where you can, their gradients are exact and a quarter of the memory.

    Args:
        images: [B, C, H, W], uint8, float16, bfloat16, float32 or float64, any strides.
        nbins: bins over 180 degrees, 1 to 180.
        cell_size: side of a cell in pixels; divides H and W.
        gaussian_window: side of a Gaussian tile (std gaussian_window // 2) that weighs the
            magnitudes, tiled from the top left; 0 for none, else 2 to 512.
        eps: least norm that a cell is divided by.

    Returns:
        [B, C, nbins, H // cell_size, W // cell_size], float32 (float64 for float64). No gradient:
        images that require one are detached. Under autocast as without it. A NaN pixel makes NaN
        all bins of the cells that its eight neighbours lie in, in its channel, and no others.

    Raises:
        TypeError: if images are not a tensor of these types.
        ValueError: for another shape or an option out of range.
    """
    _check(images, nbins, cell_size, gaussian_window, eps)
    return _hog(images.detach(), nbins, cell_size, gaussian_window, eps)


def hog_tokens(
    images: Tensor,
    patch_size: int = 16,
    nbins: int = 9,
    cell_size: int = 8,
    gaussian_window: int = 0,
    eps: float = 1e-12,
    *,
    mask: Tensor | None = None,
    ids: Tensor | None = None,
) -> Tensor:
    """`hog`, laid out as one vector for each patch of a vision transformer.

    Args:
        images, nbins, cell_size, gaussian_window, eps: as for `hog`.
        patch_size: side of a patch in pixels; a multiple of cell_size that divides H and W.
        mask: [B, L] or [B, H // patch_size, W // patch_size], nonzero where a patch is wanted: only
            these are computed, the others are zero.
        ids: [B, K] int64, the patches wanted, in 0 .. L - 1: only these are computed and returned.
            On a GPU an id out of range gives a token of NaN (looking would be a synchronisation).

    Returns:
        [B, L, C * nbins * u * u] with u = patch_size // cell_size, or [B, K, ...] with ids; the
        order in a token is (channel, bin, row, column). dtype as for `hog`.

    Raises:
        TypeError, ValueError: as `hog`, and for a mask or ids of another shape, type or range, or
            both at once.
    """
    _check(images, nbins, cell_size, gaussian_window, eps)
    check_int("patch_size", patch_size)
    height, width = images.shape[-2:]
    if patch_size % cell_size or height % patch_size or width % patch_size:
        raise ValueError(
            f"patch_size is {patch_size}; it must be a multiple of cell_size ({cell_size}) and "
            f"divide height and width ({height} x {width})"
        )
    if mask is not None and ids is not None:
        raise ValueError("both mask and ids were given; choose one")
    patches = (height // patch_size, width // patch_size)
    if mask is not None:
        mask = _check_mask(mask, images, patches)
    if ids is not None:
        _check_ids(ids, images, patches[0] * patches[1])
    images = images.detach()
    return _hog_tokens(images, patch_size, nbins, cell_size, gaussian_window, eps, mask, ids)


def check_int(name: str, value: Any) -> None:
    """Raises unless `value` is an int, 1 or more."""
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); expected an int")
    if value < 1:
        raise ValueError(f"{name} is {value}; expected 1 or more")


def check_options(nbins: Any, gaussian_window: Any) -> None:
    """Raises unless the options that all forms of HOG share are in range."""
    check_int("nbins", nbins)
    if nbins > MAX_BINS:
        raise ValueError(f"nbins is {nbins}; accepted are 1 to {MAX_BINS}")
    if isinstance(gaussian_window, int) and gaussian_window == 0:
        return
    check_int("gaussian_window", gaussian_window)
    if gaussian_window == 1 or gaussian_window > MAX_WINDOW:
        accepted = f"0 (none) and 2 to {MAX_WINDOW}"
        raise ValueError(f"gaussian_window is {gaussian_window}; accepted are {accepted}")


def _check(images: Any, nbins: int, cell_size: int, gaussian_window: int, eps: float) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images is a {type(images).__name__}; expected a tensor [B, C, H, W]")
    if images.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"images is {images.dtype}; accepted are {names}")
    if images.dim() != 4:
        raise ValueError(f"images has shape {tuple(images.shape)}; expected [B, C, H, W]")
    check_options(nbins, gaussian_window)
    check_int("cell_size", cell_size)
    height, width = images.shape[-2:]
    if height < 2 or width < 2 or height % cell_size or width % cell_size:
        raise ValueError(
            f"images are {height} x {width}; height and width must be multiples of cell_size "
            f"({cell_size}), and at least 2"
        )
    if not eps >= 0:
        raise ValueError(f"eps is {eps}; expected 0 or more")


def _check_mask(mask: Any, images: Tensor, patches: tuple[int, int]) -> Tensor:
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask is a {type(mask).__name__}; expected a tensor")
    batch, total = images.shape[0], patches[0] * patches[1]
    if tuple(mask.shape) not in ((batch, total), (batch, *patches)):
        expected = f"({batch}, {total}) or ({batch}, {patches[0]}, {patches[1]})"
        raise ValueError(f"mask has shape {tuple(mask.shape)}; expected {expected}")
    _check_device("mask", mask, images)
    mask = mask if mask.dtype == torch.bool else mask != 0
    return mask.reshape(batch, total)


def _check_ids(ids: Any, images: Tensor, total: int) -> None:
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"ids is {got}; expected an int64 tensor [B, K]")
    if ids.dim() != 2 or ids.shape[0] != images.shape[0]:
        raise ValueError(f"ids has shape {tuple(ids.shape)}; expected [{images.shape[0]}, K]")
    _check_device("ids", ids, images)
    if ids.device.type == "cpu" and not torch.compiler.is_compiling() and ids.numel():
        low, high = torch.aminmax(ids)
        if low < 0 or high >= total:
            raise ValueError(
                f"ids are in {int(low)} .. {int(high)}; expected 0 .. {total - 1}, the patches of "
                f"an image"
            )


def _check_device(name: str, tensor: Tensor, images: Tensor) -> None:
    if tensor.device != images.device:
        raise ValueError(f"{name} is on {tensor.device}, images on {images.device}")


def _output_dtype(images: Tensor) -> torch.dtype:
    return torch.float64 if images.dtype == torch.float64 else torch.float32


def _hog_fake(
    images: Tensor, nbins: int, cell_size: int, gaussian_window: int, eps: float
) -> Tensor:
    batch, channels, height, width = images.shape
    size = (batch, channels, nbins, height // cell_size, width // cell_size)
    return images.new_empty(size, dtype=_output_dtype(images))


def _hog_tokens_fake(
    images: Tensor,
    patch_size: int,
    nbins: int,
    cell_size: int,
    gaussian_window: int,
    eps: float,
    mask: Tensor | None = None,
    ids: Tensor | None = None,
) -> Tensor:
    batch, channels, height, width = images.shape
    total = (height // patch_size) * (width // patch_size)
    tokens = total if ids is None else ids.shape[1]
    size = (batch, tokens, channels * nbins * (patch_size // cell_size) ** 2)
    return images.new_empty(size, dtype=_output_dtype(images))


_OPTIONS = "int nbins, int cell_size, int gaussian_window, float eps"
_hog = register(
    f"hog(Tensor images, {_OPTIONS}) -> Tensor",
    reference=reference.hog,
    fake=_hog_fake,
    triton=True,
    gpu_order=("compiled", "triton"),  # sums of a data-dependent bin stay in shared memory
)
_hog_tokens = register(
    f"hog_tokens(Tensor images, int patch_size, {_OPTIONS}, Tensor? mask=None, Tensor? ids=None)"
    " -> Tensor",
    reference=reference.hog_tokens,
    fake=_hog_tokens_fake,
    triton=True,
    gpu_order=("compiled", "triton"),
)
