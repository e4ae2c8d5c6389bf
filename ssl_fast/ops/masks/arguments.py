"""Checks of the samplers' arguments, for the ops and the data loader alike. Needs no torch."""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

MAX_CELLS = 65536
MAX_ASPECT = 1e6
ASPECT_SCALE = 2**24  # csrc/masks/block_mask_math.h, kAspectBits


class BlockLaw(NamedTuple):
    """What a block mask is drawn by, in the order of the op's schema.

    Attributes:
        min_block, max_block: area of a block in cells.
        log2_min_aspect, log2_max_aspect: of a block's height / width, times 2^24, rounded: with
            this all that follows is integer arithmetic.
        exclusive: whether the last place of each axis is left out.
    """

    height: int
    width: int
    num_masked: int
    min_block: int
    max_block: int
    log2_min_aspect: int
    log2_max_aspect: int
    exclusive: bool


def block_law(
    grid: Any,
    num_masked: Any,
    min_block: Any,
    max_block: Any,
    min_aspect: Any,
    max_aspect: Any,
    compat: Any,
) -> BlockLaw:
    """Checks the options of `block_mask` and fills in what was left open.

    Raises:
        TypeError, ValueError: says what was got and what is accepted.
    """
    height, width = check_grid(grid)
    cells = height * width
    check_int("num_masked", num_masked, 0)
    if num_masked > cells:
        raise ValueError(f"num_masked is {num_masked}; the grid has {cells} cells")
    check_int("min_block", min_block, 1)
    if min_block > cells:
        raise ValueError(f"min_block is {min_block}; larger than the grid, {cells} cells")
    if max_block is None:
        max_block = max(num_masked, min_block)
    check_int("max_block", max_block, 1)
    if max_block < min_block:
        raise ValueError(f"max_block is {max_block}; expected min_block ({min_block}) or more")
    max_block = min(max_block, cells)  # no block has more new cells
    check_aspect("min_aspect", min_aspect)
    if max_aspect is None:
        max_aspect = 1 / min_aspect
    check_aspect("max_aspect", max_aspect)
    if max_aspect < min_aspect:
        raise ValueError(f"aspects are {min_aspect} to {max_aspect}; expected min_aspect first")
    if compat not in (None, "mmpretrain"):
        raise ValueError(f"compat is {compat!r}; accepted are None and 'mmpretrain'")
    low, high = (round(math.log2(aspect) * ASPECT_SCALE) for aspect in (min_aspect, max_aspect))
    return BlockLaw(height, width, num_masked, min_block, max_block, low, high, compat is not None)


def num_kept(length: int, mask_ratio: Any) -> int:
    """Tokens that MAE keeps of `length`."""
    check_ratio("mask_ratio", mask_ratio)
    return int(length * (1 - mask_ratio))


def check_length(length: Any) -> None:
    """Raises unless `length` is a number of tokens that the samplers take."""
    check_int("length", length, 1)
    if length > MAX_CELLS:
        raise ValueError(f"length is {length}; accepted are at most {MAX_CELLS}")


def check_ratio(name: str, value: Any) -> None:
    """Raises unless `value` is a share, 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); expected a float")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{name} is {value}; accepted are 0 to 1")


def check_int(name: str, value: Any, least: int) -> None:
    """Raises unless `value` is an integer, `least` or more."""
    # torch's symbolic integers, of torch.export, are known by name: this module needs no torch.
    integral = isinstance(value, numbers.Integral) or type(value).__name__ == "SymInt"
    if isinstance(value, bool) or not integral:
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); expected an int")
    if value < least:
        raise ValueError(f"{name} is {value}; expected {least} or more")


def check_grid(grid: Any) -> tuple[int, int]:
    """(height, width) of the grid of patches."""
    if not isinstance(grid, (tuple, list)) or len(grid) != 2:
        raise TypeError(f"grid is {grid!r}; expected (height, width)")
    height, width = grid
    check_int("height", height, 1)
    check_int("width", width, 1)
    if height * width > MAX_CELLS:
        raise ValueError(f"grid is {height} x {width}; accepted are at most {MAX_CELLS} cells")
    return height, width


def check_aspect(name: str, value: Any) -> None:
    """Raises unless `value` is a height / width that a block can have."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); expected a float")
    if not 1 / MAX_ASPECT <= float(value) <= MAX_ASPECT:
        raise ValueError(f"{name} is {value}; accepted are {1 / MAX_ASPECT:g} to {MAX_ASPECT:g}")
