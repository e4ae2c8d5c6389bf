"""The masked patch loss in Triton. A program takes blocks of one or a few neighbouring patches, one
after the other, and holds all elements of a block at once. Sums come in two stages, each in a fixed
order: there are no atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference


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


# A program holds whole patches in registers: larger ones are the reference's. 16,384 elements are
# 73 x 73 pixels of three channels.
MAX_ELEMENTS = 16384
MAX_PATCHES = 1 << 30  # are counted in 32 bits
HELD = 1024  # elements that a program holds, if a patch has not more
# Programs of each kernel at most: what does not depend on the patch is made once for several. The
# sum's order depends on their number, which is the same on every device.
LOSS_PROGRAMS = 4224
GRADIENT_PROGRAMS = 16896
INTERPRETED_HELD, INTERPRETED_PROGRAMS = 1 << 14, 2  # the interpreter pays by the step


def _pred_strides(x: Tensor, patch: int, columns: int, channels: int) -> tuple[int, ...]:
    """Of (image, patch row, patch column, channel, y, x), in elements."""
    if x.dim() == 4:
        n, c, h, w = x.stride()
        return n, patch * h, patch * w, c, h, w
    n, token, step = x.stride()
    return n, columns * token, token, step, patch * channels * step, channels * step


def _warps(elements: int, itemsize: int) -> int:
    """One warp where its registers hold all elements: its sums need no barrier."""
    return min(16, max(1, elements // 1024 * (itemsize // 4) ** 2))


class _Call:
    """What both directions have in common: arguments, constants and the number of programs."""

    def __init__(self, pred, images, mask, patch, norm_pix, p, mean, std, most):
        batch, channels, height, width = images.shape
        rows, columns = height // patch, width // patch
        self.size = patch * patch * channels
        elements = triton.next_power_of_2(self.size)
        patches = batch * rows * columns
        held = HELD if images.is_cuda else INTERPRETED_HELD
        each = max(1, min(held // elements, triton.next_power_of_2(patches)))
        blocks = triton.cdiv(patches, each)
        self.programs = min(blocks, most if images.is_cuda else INTERPRETED_PROGRAMS)
        self.dtype = reference.compute_dtype(pred, images)
        self.compute = tl.float64 if self.dtype == torch.float64 else tl.float32
        if mask.dtype == torch.bool:
            mask = mask.view(torch.uint8)
        self.tensors = (
            pred, images, mask.contiguous(), pred if mean is None else mean.contiguous(),
            pred if std is None else std.contiguous(),
        )  # fmt: skip
        strides = _pred_strides(pred, patch, columns, channels)
        steps = triton.cdiv(blocks, self.programs) if blocks else 0
        self.sizes = (steps, patches, rows, columns, *strides, *images.stride())
        last = (channels - 1, patch - 1, patch - 1)
        spans = (sum(map(int.__mul__, last, each)) for each in (strides[3:], images.stride()[1:]))
        self.constants = {
            "HAS_MEAN": mean is not None,
            "HAS_STD": std is not None,
            "NORM": norm_pix,
            "IMAGE_SHAPED": pred.dim() == 4,
            "DENSE": pred.dim() == 3 and pred.stride(2) == 1,
            "WIDE": max(*spans, channels * height * width) >= 1 << 31,
            "COMPUTE": self.compute,
            "PATCH": patch,
            "CHANNELS": channels,
            "PATCHES": each,
            "ELEMENTS": elements,
            "POWER": p,
            "num_warps": _warps(each * elements, self.dtype.itemsize),
        }


def _too_large(images: Tensor, patch: int) -> bool:
    batch, channels, height, width = images.shape
    return (
        patch * patch * channels > MAX_ELEMENTS
        or batch * (height // patch) * (width // patch) > MAX_PATCHES
    )


def masked_patch_loss(
    pred: Tensor,
    images: Tensor,
    mask: Tensor,
    patch_size: int,
    norm_pix: bool,
    p: int,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Launcher of `ssl_fast::masked_patch_loss`; what is too large goes to the reference."""
    arguments = (pred, images, mask, patch_size, norm_pix, p, mean, std)
    if _too_large(images, patch_size):
        return reference.masked_patch_loss(*arguments)
    call = _Call(*arguments, LOSS_PROGRAMS)
    out, count = (pred.new_empty((), dtype=call.dtype) for _ in range(2))
    if call.programs == 0:
        return out.zero_(), count.zero_()
    partials = pred.new_empty((2, call.programs), dtype=call.dtype)
    _partial_kernel[(call.programs,)](*call.tensors, partials, *call.sizes, **call.constants)
    _total_kernel[(1,)](
        partials, out, count, call.programs, call.size, COMPUTE=call.compute,
        BLOCK=triton.next_power_of_2(call.programs), num_warps=8,
    )  # fmt: skip
    return out, count


def masked_patch_loss_backward(
    grad: Tensor,
    count: Tensor,
    pred: Tensor,
    images: Tensor,
    mask: Tensor,
    patch_size: int,
    norm_pix: bool,
    p: int,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """Launcher of `ssl_fast::masked_patch_loss_backward`; as above."""
    arguments = (pred, images, mask, patch_size, norm_pix, p, mean, std)
    if _too_large(images, patch_size):
        return reference.masked_patch_loss_backward(grad, count, *arguments)
    call = _Call(*arguments, GRADIENT_PROGRAMS)
    out = pred.new_empty(pred.shape)
    if call.programs:
        _gradient_kernel[(call.programs,)](
            *call.tensors, grad, count, out, *call.sizes, **call.constants
        )
    return out
