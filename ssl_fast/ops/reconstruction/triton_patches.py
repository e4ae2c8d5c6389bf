"""Triton kernels of the masked patch loss and its gradient; `triton_kernels` launches them.

A program takes blocks of one or a few neighbouring patches, one after the other, and holds all
elements of a block at once. Sums come in two stages, each in a fixed order: there are no atomics.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _elements(
    PATCH: tl.constexpr, CHANNELS: tl.constexpr, IMAGE_SHAPED: tl.constexpr, WIDE: tl.constexpr,
    ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Channel, y and x of a patch's elements [1, ELEMENTS] in the order in which the prediction
    lies, and which of them exist.
    """
    element = tl.arange(0, ELEMENTS)[None, :]
    if IMAGE_SHAPED:
        x = element % PATCH
        y = element // PATCH % PATCH
        c = element // (PATCH * PATCH)
    else:
        c = element % CHANNELS
        x = element // CHANNELS % PATCH
        y = element // (CHANNELS * PATCH)
    if WIDE:
        c, y, x = c.to(tl.int64), y.to(tl.int64), x.to(tl.int64)
    return c, y, x, element < CHANNELS * PATCH * PATCH


@triton.jit
def _statistics(
    mean, std, c, inside, HAS_MEAN: tl.constexpr, HAS_STD: tl.constexpr, COMPUTE: tl.constexpr
):
    """What is subtracted from the pixels and what they are then multiplied by: [1, ELEMENTS]."""
    shift = tl.zeros(c.shape, COMPUTE)
    factor = tl.full(c.shape, 1, COMPUTE)
    if HAS_MEAN:
        shift = tl.load(mean + c, mask=inside, other=0).to(COMPUTE)
    if HAS_STD:
        factor /= tl.load(std + c, mask=inside, other=1).to(COMPUTE)
    return shift, factor


@triton.jit
def _block(step, mask, patches, PATCHES: tl.constexpr):
    """The patches [PATCHES, 1] of one step: their indices, and which are masked."""
    index = (step * tl.num_programs(0) + tl.program_id(0)) * PATCHES
    index += tl.arange(0, PATCHES)[:, None]
    return index, tl.load(mask + index, mask=index < patches, other=0) != 0


@triton.jit
def _some(masked):
    """Whether any is: a block without a masked patch reads nothing."""
    return tl.max(tl.max(masked.to(tl.int32), axis=1), axis=0) != 0


@triton.jit
def _place(index, rows, columns):
    """Image, row and column of the grid, of 64 bits."""
    image = index // (rows * columns)
    rest = index - image * (rows * columns)
    row = rest // columns
    return image.to(tl.int64), row.to(tl.int64), (rest - row * columns).to(tl.int64)


@triton.jit
def _differences(
    pred, images, index, within, shift, factor, c, y, x, rows, columns,
    pred_n, pred_row, pred_column, pred_c, pred_y, pred_x, image_n, image_c, image_h, image_w,
    HAS_MEAN: tl.constexpr, HAS_STD: tl.constexpr, NORM: tl.constexpr, DENSE: tl.constexpr,
    COMPUTE: tl.constexpr, PATCH: tl.constexpr, CHANNELS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Prediction less target [PATCHES, ELEMENTS], where it counts."""
    # Offsets within a patch are of 32 bits where these do; where the patch begins takes 64.
    image, row, column = _place(index, rows, columns)
    base = image * pred_n + row * pred_row + column * pred_column
    here = tl.arange(0, ELEMENTS)[None, :] if DENSE else c * pred_c + y * pred_y + x * pred_x
    # Both are asked for before either is worked on.
    predicted = tl.load(pred + base + here, mask=within, other=0)
    base = image * image_n + row * PATCH * image_h + column * PATCH * image_w
    here = c * image_c + y * image_h + x * image_w
    target = tl.load(images + base + here, mask=within, other=0).to(COMPUTE)
    if HAS_MEAN:
        target -= shift
    if HAS_STD:
        target *= factor
    if NORM:
        size: tl.constexpr = CHANNELS * PATCH * PATCH
        target -= tl.sum(tl.where(within, target, 0), axis=1)[:, None] / size
        # The mean was rounded: that of what is left mends it.
        target -= tl.sum(tl.where(within, target, 0), axis=1)[:, None] / size
        squares = tl.sum(tl.where(within, target * target, 0), axis=1)[:, None]
        target *= 1 / tl.sqrt(squares / (size - 1) + 1e-6)
    return predicted.to(COMPUTE) - target


@triton.jit
def _partial_kernel(
    pred, images, mask, mean, std, partials, steps, patches, rows, columns,
    pred_n, pred_row, pred_column, pred_c, pred_y, pred_x, image_n, image_c, image_h, image_w,
    HAS_MEAN: tl.constexpr, HAS_STD: tl.constexpr, NORM: tl.constexpr, IMAGE_SHAPED: tl.constexpr,
    DENSE: tl.constexpr, WIDE: tl.constexpr, COMPUTE: tl.constexpr, PATCH: tl.constexpr,
    CHANNELS: tl.constexpr, PATCHES: tl.constexpr, ELEMENTS: tl.constexpr, POWER: tl.constexpr,
):  # fmt: skip
    """First stage: every program's sum of losses; behind all of these, its masked patches."""
    c, y, x, inside = _elements(PATCH, CHANNELS, IMAGE_SHAPED, WIDE, ELEMENTS)
    shift, factor = _statistics(mean, std, c, inside, HAS_MEAN, HAS_STD, COMPUTE)
    losses = tl.zeros((PATCHES, 1), COMPUTE)
    count = tl.zeros((PATCHES, 1), tl.int32)
    next_index, next_masked = _block(0, mask, patches, PATCHES)
    for step in range(steps):
        index, masked = next_index, next_masked
        next_index, next_masked = _block(step + 1, mask, patches, PATCHES)  # else waited for
        if _some(masked):
            within = masked & inside
            difference = _differences(
                pred, images, index, within, shift, factor, c, y, x, rows, columns,
                pred_n, pred_row, pred_column, pred_c, pred_y, pred_x,
                image_n, image_c, image_h, image_w,
                HAS_MEAN, HAS_STD, NORM, DENSE, COMPUTE, PATCH, CHANNELS, ELEMENTS,
            )  # fmt: skip
            loss = tl.abs(difference) if POWER == 1 else difference * difference
            losses += tl.sum(tl.where(within, loss, 0), axis=1)[:, None]
            count += masked.to(tl.int32)
    program = tl.program_id(0)
    tl.store(partials + program, tl.sum(tl.sum(losses, axis=1), axis=0))
    masked_patches = tl.sum(tl.sum(count, axis=1), axis=0).to(COMPUTE)
    tl.store(partials + tl.num_programs(0) + program, masked_patches)


@triton.jit
def _total_kernel(partials, out, count_out, programs, size, COMPUTE: tl.constexpr,
                  BLOCK: tl.constexpr):  # fmt: skip
    """Second stage, one program: the mean over all masked elements, 0 without any, and the number
    of masked patches.
    """
    lane = tl.arange(0, BLOCK)
    losses = tl.load(partials + lane, mask=lane < programs, other=0)
    counts = tl.load(partials + programs + lane, mask=lane < programs, other=0)
    count = tl.sum(counts, axis=0)
    tl.store(out, tl.sum(losses, axis=0) / (tl.where(count > 0, count, 1) * size))
    tl.store(count_out, count)


@triton.jit
def _gradient_kernel(
    pred, images, mask, mean, std, grad, count, out, steps, patches, rows, columns,
    pred_n, pred_row, pred_column, pred_c, pred_y, pred_x, image_n, image_c, image_h, image_w,
    HAS_MEAN: tl.constexpr, HAS_STD: tl.constexpr, NORM: tl.constexpr, IMAGE_SHAPED: tl.constexpr,
    DENSE: tl.constexpr, WIDE: tl.constexpr, COMPUTE: tl.constexpr, PATCH: tl.constexpr,
    CHANNELS: tl.constexpr, PATCHES: tl.constexpr, ELEMENTS: tl.constexpr, POWER: tl.constexpr,
):  # fmt: skip
    """The gradient, contiguous; zeros where a patch is not masked."""
    size: tl.constexpr = CHANNELS * PATCH * PATCH
    c, y, x, inside = _elements(PATCH, CHANNELS, IMAGE_SHAPED, WIDE, ELEMENTS)
    shift, factor = _statistics(mean, std, c, inside, HAS_MEAN, HAS_STD, COMPUTE)
    masked_patches = tl.load(count).to(COMPUTE)
    scale = tl.load(grad).to(COMPUTE) / (tl.where(masked_patches > 0, masked_patches, 1) * size)
    next_index, next_masked = _block(0, mask, patches, PATCHES)
    for step in range(steps):
        index, masked = next_index, next_masked
        next_index, next_masked = _block(step + 1, mask, patches, PATCHES)
        slope = tl.zeros((PATCHES, ELEMENTS), COMPUTE)
        if _some(masked):
            within = masked & inside
            difference = _differences(
                pred, images, index, within, shift, factor, c, y, x, rows, columns,
                pred_n, pred_row, pred_column, pred_c, pred_y, pred_x,
                image_n, image_c, image_h, image_w,
                HAS_MEAN, HAS_STD, NORM, DENSE, COMPUTE, PATCH, CHANNELS, ELEMENTS,
            )  # fmt: skip
            if POWER == 1:
                sign = tl.where(difference > 0, scale, tl.where(difference < 0, -scale, 0))
                slope = tl.where(within, sign, 0)
            else:
                slope = tl.where(within, 2 * difference * scale, 0)
        if out.dtype.element_ty != tl.float64:  # the interpreter narrows float32 alone
            slope = slope.to(tl.float32)
        if IMAGE_SHAPED:
            image, row, column = _place(index, rows, columns)
            line = columns * PATCH  # of the image
            base = ((image * CHANNELS * rows + row) * line + column) * PATCH
            here = c * (rows * PATCH * line) + y * line + x
        else:
            base = index.to(tl.int64) * size
            here = tl.arange(0, ELEMENTS)[None, :]
        tl.store(out + base + here, slope, mask=(index < patches) & inside)
