"""Mask samplers in NumPy, for data-loading workers: no torch below, and Python's lock released.

The bits are those of `ssl_fast.ops`: a mask depends on the seed and its sample id alone, so it is
the same whichever worker draws it, forked or spawned. In a `Dataset`:

    def __getitem__(self, index):
        mask = block_mask(1, (14, 14), 75, seed=self.seed, sample_ids=np.array([index]))[0]
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ._dispatch.native import ADVICE
from .ops.masks.arguments import block_law, check_int, check_length, num_kept
from .random import signed_seed


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
    sample_ids: NDArray[np.int64] | None = None,
    compat: str | None = None,
) -> NDArray[np.bool_]:
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
    law = block_law(grid, num_masked, min_block, max_block, min_aspect, max_aspect, compat)
    return _native().block_mask(signed_seed(seed), _ids(sample_ids, num_samples), *law)


def random_mask(
    num_samples: int,
    length: int,
    mask_ratio: float,
    *,
    seed: int | None = None,
    noise: NDArray[np.float32] | NDArray[np.float64] | None = None,
    sample_ids: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
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


def _ids(sample_ids: NDArray[np.int64] | None, num_samples: int) -> NDArray[np.int64]:
    if sample_ids is None:
        return np.arange(num_samples, dtype=np.int64)
    if not isinstance(sample_ids, np.ndarray) or sample_ids.dtype != np.int64:
        got = getattr(sample_ids, "dtype", type(sample_ids).__name__)
        raise TypeError(f"sample_ids is {got}; expected an int64 array [N]")
    if sample_ids.shape != (num_samples,):
        shape = sample_ids.shape
        raise ValueError(f"sample_ids has shape {shape}; expected ({num_samples},), one an image")
    return sample_ids
