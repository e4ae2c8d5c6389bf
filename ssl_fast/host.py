"""Mask samplers in NumPy, for data-loading workers: no torch below, and Python's lock released.

The bits are those of `ssl_fast.ops`: a mask depends on the seed and its sample id alone, so it is
the same whichever worker draws it, forked or spawned. In a `Dataset`:

    def __getitem__(self, index):
        mask = block_mask(1, (14, 14), 75, seed=self.seed, sample_ids=np.array([index]))[0]
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._dispatch.native import ADVICE
from .ops.masks.arguments import (
    BlockLaw,
    block_law,
    check_int,
    check_length,
    cube_law,
    ibot_law,
    multiblock_law,
    num_kept,
    simmim_sizes,
    tube_counts,
)
from .random import multiblock_words, signed_seed

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


# A worker asks for one law again and again. Typed: 4.0 is not taken for a 4 that was seen before.
@functools.lru_cache(maxsize=256, typed=True)
def _remembered(check: Callable[..., Any], *arguments: Any) -> Any:
    return check(*arguments)


def _checked_once(check: Callable[..., Any], *arguments: Any) -> Any:
    """`check(*arguments)`, remembered where the arguments can be; what it raises is not."""
    try:
        return _remembered(check, *arguments)
    except TypeError:  # an argument without a hash; or one that the check refuses, as it says again
        return check(*arguments)


def _block_law(height: Any, width: Any, *options: Any) -> BlockLaw:
    return block_law((height, width), *options)


@functools.cache
def _native() -> ModuleType:
    try:
        return importlib.import_module("ssl_fast._host")
    except ModuleNotFoundError:
        why = f"ssl_fast._host was not built for this Python: {ADVICE}"
    except ImportError as error:
        why = f"ssl_fast._host does not load: {error}"
    raise RuntimeError(why)


def block_mask(
    num_samples: int,
    grid: tuple[int, int],
    num_masked: int,
    min_block: int = 4,
    max_block: int | None = None,
    min_aspect: float = 0.3,
    max_aspect: float | None = None,
    *,
    seed: int,
    sample_ids: Ints | None = None,
    compat: str | None = None,
) -> Bools:
    """Masks of rectangular blocks, with exactly `num_masked` cells each.

    Args:
        num_samples, grid, num_masked, min_block, max_block, min_aspect, max_aspect, compat: as for
            `ssl_fast.ops.block_mask`, which describes the law.
        seed: an integer of 64 bits; see `ssl_fast.random.derive_seed`.
        sample_ids: [N] int64, such as dataset indices; None for 0 .. N - 1.

    Returns:
        bool [N, height, width], True where masked.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
        RuntimeError: where the compiled module is missing; says what to do.
    """
    check_int("num_samples", num_samples, 0)
    options = (num_masked, min_block, max_block, min_aspect, max_aspect, compat)
    if type(grid) is tuple and len(grid) == 2:
        law = _checked_once(_block_law, *grid, *options)
    else:
        law = block_law(grid, *options)
    return _native().block_mask(signed_seed(seed), _ids(sample_ids, num_samples), *law)


def random_mask(
    num_samples: int,
    length: int,
    mask_ratio: float,
    *,
    seed: int | None = None,
    noise: Floats | NDArray[np.float64] | None = None,
    sample_ids: Ints | None = None,
) -> tuple[Ints, Ints, Floats]:
    """Masks of single tokens, drawn uniformly: int(length * (1 - mask_ratio)) of them are kept.

    Args:
        num_samples, length, mask_ratio: as for `ssl_fast.ops.random_mask`, which describes the law.
        seed: an integer of 64 bits; see `ssl_fast.random.derive_seed`.
        noise: [N, L], float32 or float64, in place of seed and sample_ids.
        sample_ids: [N] int64, such as dataset indices; None for 0 .. N - 1.

    Returns:
        ids_keep [N, K] int64, ids_restore [N, L] int64, mask [N, L] float32: 1 where masked.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
        RuntimeError: where the compiled module is missing; says what to do.
    """
    check_int("num_samples", num_samples, 0)
    check_length(length)
    kept = num_kept(length, mask_ratio)
    if noise is None:
        ids = _ids(sample_ids, num_samples)
        return _native().random_mask(signed_seed(seed), ids, length, kept)
    if seed is not None or sample_ids is not None:
        raise ValueError("noise is given, so seed and sample_ids have no use: expected None")
    if not isinstance(noise, np.ndarray) or noise.dtype not in (np.float32, np.float64):
        got = getattr(noise, "dtype", type(noise).__name__)
        raise TypeError(f"noise is {got}; expected a float32 or float64 array [N, L]")
    if noise.shape != (num_samples, length):
        raise ValueError(f"noise has shape {noise.shape}; expected {(num_samples, length)}")
    return _native().random_mask_from_noise(np.ascontiguousarray(noise), kept)


def simmim_mask(
    num_samples: int,
    input_size: int = 192,
    mask_patch_size: int = 32,
    model_patch_size: int = 4,
    mask_ratio: float = 0.6,
    *,
    seed: int,
    sample_ids: Ints | None = None,
) -> Bools:
    """Masks of squares of `mask_patch_size` pixels, on the grid of the model's patches.

    Args:
        num_samples, input_size, mask_patch_size, model_patch_size, mask_ratio: as for
            `ssl_fast.ops.simmim_mask`, which describes the law.
        seed, sample_ids: as for `block_mask`.

    Returns:
        bool [N, h, w], True where masked.

    Raises:
        TypeError, ValueError, RuntimeError: as `block_mask`.
    """
    check_int("num_samples", num_samples, 0)
    side, scale, num_masked = _checked_once(
        simmim_sizes, input_size, mask_patch_size, model_patch_size, mask_ratio
    )
    mask = _permuted(num_samples, side * side, side * side - num_masked, seed, sample_ids)
    fine = np.empty((num_samples, side, scale, side, scale), dtype=np.bool_)
    fine[:] = mask.reshape(num_samples, side, 1, side, 1)
    return fine.reshape(num_samples, side * scale, side * scale)


def tube_mask(
    num_samples: int,
    grid: tuple[int, int, int],
    mask_ratio: float,
    *,
    kind: str = "random",
    seed: int,
    sample_ids: Ints | None = None,
) -> Bools:
    """Masks of a video that are the same in all its frames.

    Args:
        num_samples, grid, mask_ratio, kind: as for `ssl_fast.ops.tube_mask`, which describes the
            law.
        seed, sample_ids: as for `block_mask`.

    Returns:
        bool [N, frames, height, width], True where masked.

    Raises:
        TypeError, ValueError, RuntimeError: as `block_mask`.
    """
    check_int("num_samples", num_samples, 0)
    (frames, height, width), num_masked, min_block = tube_counts(grid, mask_ratio, kind)
    if kind == "random":
        cells = height * width
        mask = _permuted(num_samples, cells, cells - num_masked, seed, sample_ids)
    else:
        mask = block_mask(
            num_samples, (height, width), num_masked, min_block, seed=seed, sample_ids=sample_ids
        )
    tubes = np.empty((num_samples, frames, height, width), dtype=np.bool_)
    tubes[:] = mask.reshape(num_samples, 1, height, width)
    return tubes


def cube_mask(
    num_samples: int,
    grid: tuple[int, int, int],
    mask_ratio: float,
    min_block: int | None = None,
    max_block: int | None = None,
    min_aspect: float = 0.3,
    max_aspect: float | None = None,
    *,
    seed: int,
    sample_ids: Ints | None = None,
) -> Bools:
    """Masks of a video made of blocks that last for some frames.

    Args:
        num_samples, grid, mask_ratio, min_block, max_block, min_aspect, max_aspect: as for
            `ssl_fast.ops.cube_mask`, which describes the law.
        seed, sample_ids: as for `block_mask`.

    Returns:
        bool [N, frames, height, width], True where masked.

    Raises:
        TypeError, ValueError, RuntimeError: as `block_mask`.
    """
    check_int("num_samples", num_samples, 0)
    law = cube_law(grid, mask_ratio, min_block, max_block, min_aspect, max_aspect)
    return _native().cube_mask(signed_seed(seed), _ids(sample_ids, num_samples), *law)


class IbotMask(NamedTuple):
    """The masks of a batch: see `ssl_fast.ops.IbotMask`.

    Attributes:
        mask: bool [B, L]; indices: int64 [M]; weights: float32 [M]; num_masked: M.
    """

    mask: Bools
    indices: Ints
    weights: Floats
    upper_bound: int
    num_masked: int


def ibot_mask(
    num_samples: int,
    grid: tuple[int, int],
    mask_ratio: tuple[float, float] = (0.1, 0.5),
    mask_probability: float = 0.5,
    min_block: int = 4,
    max_block: int | None = None,
    min_aspect: float = 0.3,
    max_aspect: float | None = None,
    *,
    seed: int,
    sample_ids: Ints | None = None,
) -> IbotMask:
    """Masks for a batch, of which int(B * mask_probability) crops are masked: to be collated.

    Args:
        num_samples, grid, mask_ratio, mask_probability, min_block, max_block, min_aspect,
            max_aspect: as for `ssl_fast.ops.ibot_mask`, which describes the law.
        seed, sample_ids: as for `block_mask`.

    Raises:
        TypeError, ValueError, RuntimeError: as `block_mask`.
    """
    options = (mask_ratio, mask_probability, min_block, max_block, min_aspect, max_aspect)
    law = ibot_law(num_samples, grid, *options)
    ids = _ids(sample_ids, num_samples)
    mask = _native().ibot_mask(signed_seed(seed), ids, *law).reshape(num_samples, -1)
    indices = np.flatnonzero(mask)
    weights = np.float32(1) / np.maximum(mask.sum(axis=1), 1).astype(np.float32)
    chosen = weights[indices // (law.height * law.width)]
    return IbotMask(mask, indices, chosen, law.upper_bound, len(indices))


def multiblock_mask(
    num_samples: int,
    grid: tuple[int, int],
    num_targets: int = 4,
    num_contexts: int = 1,
    target_scale: tuple[float, float] = (0.15, 0.2),
    context_scale: tuple[float, float] = (0.85, 1.0),
    target_aspect: tuple[float, float] = (0.75, 1.5),
    min_keep: int = 10,
    allow_overlap: bool = False,
    *,
    seed: int,
    sample_ids: Ints | None = None,
    compat: str | None = None,
) -> tuple[list[Ints], list[Ints]]:
    """Patches to keep for I-JEPA's context encoder, and patches to predict: for a collate function.

    Args:
        num_samples, grid, num_targets, num_contexts, target_scale, context_scale, target_aspect,
            min_keep, allow_overlap, compat: as for `ssl_fast.ops.multiblock_mask`, which describes
            the law.
        seed, sample_ids: as for `block_mask`.

    Returns:
        contexts and targets: lists of int64 [B, K], ascending.

    Raises:
        TypeError, ValueError, RuntimeError: as `block_mask`.
    """
    check_int("num_samples", num_samples, 0)
    law = multiblock_law(
        grid,
        num_targets,
        num_contexts,
        target_scale,
        context_scale,
        target_aspect,
        min_keep,
        allow_overlap,
        compat,
        multiblock_words(signed_seed(seed)),
    )
    native, ids, cells = _native(), _ids(sample_ids, num_samples), law.height * law.width
    targets, contexts = native.multiblock_mask(signed_seed(seed), ids, *law)
    kept = contexts.reshape(num_samples, num_contexts, cells)
    size = int(kept.sum(axis=2).min(initial=cells)) if num_samples else 0
    order = np.arange(cells)
    if compat is None:
        order = native.random_mask(signed_seed(seed), ids, cells, 0)[1][:, None]
    # Cells of the context come first, then the others.
    noise = np.where(kept, order, order + cells).astype(np.float32).reshape(-1, cells)
    cut = np.sort(native.random_mask_from_noise(noise, size)[0], axis=1)
    cut = cut.reshape(num_samples, num_contexts, size)
    lists = (np.ascontiguousarray(part.swapaxes(0, 1)) for part in (cut, targets))
    contexts, targets = map(list, lists)
    return contexts, targets


def _permuted(
    num_samples: int, length: int, kept: int, seed: int, sample_ids: Ints | None
) -> Bools:
    """bool [N, length], True where `random_mask` masks."""
    ids = _ids(sample_ids, num_samples)
    return _native().random_mask(signed_seed(seed), ids, length, kept)[2] != 0


def _ids(sample_ids: Ints | None, num_samples: int) -> Ints:
    if sample_ids is None:
        return np.arange(num_samples, dtype=np.int64)
    if not isinstance(sample_ids, np.ndarray) or sample_ids.dtype != np.int64:
        got = getattr(sample_ids, "dtype", type(sample_ids).__name__)
        raise TypeError(f"sample_ids is {got}; expected an int64 array [N]")
    if sample_ids.shape != (num_samples,):
        shape = sample_ids.shape
        raise ValueError(f"sample_ids has shape {shape}; expected ({num_samples},), one an image")
    return sample_ids
