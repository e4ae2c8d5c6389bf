"""Checks of the samplers' arguments, for the ops and the data loader alike. Needs no torch."""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

MAX_CELLS = 65536
MAX_ASPECT = 1e6
ASPECT_SCALE = 2**24  # csrc/masks/block_mask_math.h, kAspectBits
SLICE_BITS = 15  # likewise, kSliceBits


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


class CubeLaw(NamedTuple):
    """What a cube mask is drawn by, in the order of the op's schema; as BlockLaw, in frames."""

    frames: int
    height: int
    width: int
    num_masked: int
    min_block: int
    max_block: int
    log2_min_aspect: int
    log2_max_aspect: int


class IbotLaw(NamedTuple):
    """What iBOT's masks are drawn by, in the order of the op's schema; as BlockLaw, besides:

    Attributes:
        num_samples_masked: of the batch.
        low, high: cells to mask in a sample, times 2^SLICE_BITS.
    """

    height: int
    width: int
    num_samples_masked: int
    low: int
    high: int
    min_block: int
    max_block: int
    log2_min_aspect: int
    log2_max_aspect: int

    @property
    def upper_bound(self) -> int:
        """No batch has more masked cells than this."""
        n, span = self.num_samples_masked, self.high - self.low
        return sum((self.low - span * (i + 1) // -n) >> SLICE_BITS for i in range(n))


class MultiblockLaw(NamedTuple):
    """What I-JEPA's blocks are drawn by, in the order of the op's schema."""

    height: int
    width: int
    num_targets: int
    target_height: int
    target_width: int
    num_contexts: int
    context_height: int
    context_width: int
    min_keep: int
    overlap: bool
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
    check_compat(compat, "mmpretrain")
    blocks = _check_blocks(cells, num_masked, min_block, max_block, min_aspect, max_aspect)
    return BlockLaw(height, width, num_masked, *blocks, compat is not None)


def cube_law(
    grid: Any, mask_ratio: Any, min_block: Any, max_block: Any, min_aspect: Any, max_aspect: Any
) -> CubeLaw:
    """Checks the options of `cube_mask` and fills in what was left open."""
    frames, height, width = check_video_grid(grid)
    check_ratio("mask_ratio", mask_ratio)
    cells = height * width
    if min_block is None:
        min_block = max(1, cells // 5)
    blocks = _check_blocks(cells, cells, min_block, max_block, min_aspect, max_aspect)
    return CubeLaw(frames, height, width, round(mask_ratio * (frames * cells)), *blocks)


def tube_counts(grid: Any, mask_ratio: Any, kind: Any) -> tuple[tuple[int, int, int], int, int]:
    """The grid, the number masked of a frame, and the least block of `tube_mask`."""
    frames, height, width = check_video_grid(grid)
    check_ratio("mask_ratio", mask_ratio)
    if kind not in ("random", "block"):
        raise ValueError(f"kind is {kind!r}; accepted are 'random' and 'block'")
    share = mask_ratio * (height * width)
    num_masked = int(share) if kind == "random" else round(share)
    return (frames, height, width), num_masked, max(1, num_masked // 5)


def ibot_law(
    num_samples: Any,
    grid: Any,
    mask_ratio: Any,
    mask_probability: Any,
    min_block: Any,
    max_block: Any,
    min_aspect: Any,
    max_aspect: Any,
) -> IbotLaw:
    """Checks the options of `ibot_mask` and fills in what was left open."""
    check_int("num_samples", num_samples, 0)
    height, width = check_grid(grid)
    cells = height * width
    lowest, highest = check_range("mask_ratio", mask_ratio, 0, 1)
    check_ratio("mask_probability", mask_probability)
    blocks = _check_blocks(cells, cells // 2, min_block, max_block, min_aspect, max_aspect)
    # Rounded up, as the slices are: what is an integer number of cells stays one.
    low, high = (math.ceil(cells * share * 2**SLICE_BITS) for share in (lowest, highest))
    return IbotLaw(height, width, int(num_samples * mask_probability), low, high, *blocks)


def multiblock_law(
    grid: Any,
    num_targets: Any,
    num_contexts: Any,
    target_scale: Any,
    context_scale: Any,
    target_aspect: Any,
    min_keep: Any,
    allow_overlap: Any,
    compat: Any,
    random: tuple[int, ...],
) -> MultiblockLaw:
    """Checks the options of `multiblock_mask` and draws the sizes of a batch's blocks.

    Args:
        random: three words: of the targets' scale and aspect, and of the contexts' scale.
    """
    height, width = check_grid(grid)
    check_int("num_targets", num_targets, 1)
    check_int("num_contexts", num_contexts, 1)
    target_scales = check_range("target_scale", target_scale, 0, 1)
    context_scales = check_range("context_scale", context_scale, 0, 1)
    aspects = check_range("target_aspect", target_aspect, 1 / MAX_ASPECT, MAX_ASPECT)
    check_int("min_keep", min_keep, 0)
    if min_keep >= height * width:
        raise ValueError(f"min_keep is {min_keep}; the grid has {height * width} cells")
    check_compat(compat, "ijepa")
    exclusive = compat is not None
    if exclusive and min(height, width) < 2:
        raise ValueError(f"grid is {height} x {width}; compat='ijepa' takes 2 x 2 or more")
    scale, aspect, context = (word / 2**32 for word in random)
    if exclusive:
        aspect = scale  # upstream takes one random number for both
    largest = (height - exclusive, width - exclusive)
    target = _sides(height * width, _between(target_scales, scale), _between(aspects, aspect))
    kept = _sides(height * width, _between(context_scales, context), 1.0)
    target = min(target[0], largest[0]), min(target[1], largest[1])
    kept = min(kept[0], largest[0]), min(kept[1], largest[1])
    # A block that is no larger than min_keep is taken when it is whole.
    least = min(min_keep, kept[0] * kept[1] - 1)
    counts = (num_targets, *target, num_contexts, *kept)
    return MultiblockLaw(height, width, *counts, least, bool(allow_overlap), exclusive)


def simmim_sizes(
    input_size: Any, mask_patch_size: Any, model_patch_size: Any, mask_ratio: Any
) -> tuple[int, int, int]:
    """Side of SimMIM's coarse grid, how many model patches a coarse one spans, number masked."""
    check_int("input_size", input_size, 1)
    check_int("mask_patch_size", mask_patch_size, 1)
    check_int("model_patch_size", model_patch_size, 1)
    check_ratio("mask_ratio", mask_ratio)
    if input_size % mask_patch_size != 0:
        raise ValueError(
            f"mask_patch_size is {mask_patch_size}; expected a divisor of {input_size}"
        )
    if mask_patch_size % model_patch_size != 0:
        raise ValueError(
            f"model_patch_size is {model_patch_size}; expected a divisor of {mask_patch_size}"
        )
    side = input_size // mask_patch_size
    check_grid((side, side))
    return side, mask_patch_size // model_patch_size, math.ceil(side**2 * mask_ratio)


def _check_blocks(
    cells: int,
    default_max: int,
    min_block: Any,
    max_block: Any,
    min_aspect: Any,
    max_aspect: Any,
) -> tuple[int, int, int, int]:
    """(min_block, max_block, log2_min_aspect, log2_max_aspect), as the ops take them."""
    check_int("min_block", min_block, 1)
    if min_block > cells:
        raise ValueError(f"min_block is {min_block}; larger than the grid, {cells} cells")
    if max_block is None:
        max_block = max(default_max, min_block)
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
    return min_block, max_block, _fixed_log2(min_aspect), _fixed_log2(max_aspect)


def _fixed_log2(aspect: float) -> int:
    return round(math.log2(aspect) * ASPECT_SCALE)


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])


def _sides(cells: int, scale: float, aspect: float) -> tuple[int, int]:
    """Height and width of I-JEPA's blocks, at least 1."""
    area = int(cells * scale)
    return max(1, round(math.sqrt(area * aspect))), max(1, round(math.sqrt(area / aspect)))


# ---- Single arguments ---------------------------------------------------------------------------


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
    if type(value) is float and 0 <= value <= 1:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); expected a float")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{name} is {value}; accepted are 0 to 1")


def check_int(name: str, value: Any, least: int) -> None:
    """Raises unless `value` is an integer, `least` or more."""
    if type(value) is int and value >= least:
        return  # at once: data loaders ask for each image
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


def check_video_grid(grid: Any) -> tuple[int, int, int]:
    """(frames, height, width) of the grid of patches of a video."""
    if not isinstance(grid, (tuple, list)) or len(grid) != 3:
        raise TypeError(f"grid is {grid!r}; expected (frames, height, width)")
    frames, height, width = grid
    check_int("frames", frames, 1)
    check_grid((height, width))
    if frames * height * width > MAX_CELLS:
        raise ValueError(
            f"grid is {frames} x {height} x {width}; accepted are at most {MAX_CELLS} cells"
        )
    return frames, height, width


def check_range(name: str, value: Any, least: float, most: float) -> tuple[float, float]:
    """The two ends of a range."""
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    if not pair or not all(
        isinstance(end, numbers.Real) and not isinstance(end, bool) for end in value
    ):
        raise TypeError(f"{name} is {value!r}; expected (least, greatest), two floats")
    low, high = map(float, value)
    if not least <= low <= high <= most:
        raise ValueError(f"{name} is {value}; accepted are {least:g} to {most:g}, the least first")
    return low, high


def check_compat(compat: Any, *accepted: str) -> None:
    """Raises unless `compat` is None or one of the names."""
    if compat is not None and compat not in accepted:
        names = " and ".join(map(repr, (None, *accepted)))
        raise ValueError(f"compat is {compat!r}; accepted are {names}")


def check_aspect(name: str, value: Any) -> None:
    """Raises unless `value` is a height / width that a block can have."""
    if type(value) is float and 1 / MAX_ASPECT <= value <= MAX_ASPECT:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); expected a float")
    if not 1 / MAX_ASPECT <= float(value) <= MAX_ASPECT:
        raise ValueError(f"{name} is {value}; accepted are {1 / MAX_ASPECT:g} to {MAX_ASPECT:g}")
