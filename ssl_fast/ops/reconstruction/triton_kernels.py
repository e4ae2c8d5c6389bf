"""The masked patch loss in Triton. A program takes a few neighbouring patches and holds all their
elements at once. Sums come in two stages, each in a fixed order: there are no atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference


@triton.jit
def _places(
    patches, rows, columns, channels, patch,
    IMAGE_SHAPED: tl.constexpr, PATCHES: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """The program's patches, as image, row and column of the grid [PATCHES, 1], and the elements
    of a patch, as channel, y and x [1, ELEMENTS]; all of 64 bits. Then which of both exist.
    """
    index = tl.program_id(0).to(tl.int64) * PATCHES + tl.arange(0, PATCHES)[:, None]
    image = index // (rows * columns)
    row = index // columns % rows
    column = index % columns
    element = tl.arange(0, ELEMENTS)[None, :]
    if IMAGE_SHAPED:  # along the rows of the image, where prediction and pixels lie
        x = element % patch
        y = element // patch % patch
        c = element // (patch * patch)
    else:
        c = element % channels
        x = element // channels % patch
        y = element // (channels * patch)
    exists = index < patches
    inside = element < channels * patch * patch
    return index, image, row, column, c.to(tl.int64), y.to(tl.int64), x.to(tl.int64), exists, inside


@triton.jit
def _differences(
    pred, images, mask, mean, std, patches, rows, columns, channels, patch,
    pred_n, pred_row, pred_column, pred_c, pred_y, pred_x, image_n, image_c, image_h, image_w,
    HAS_MEAN: tl.constexpr, HAS_STD: tl.constexpr, NORM: tl.constexpr, IMAGE_SHAPED: tl.constexpr,
    COMPUTE: tl.constexpr, PATCHES: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Prediction less target [PATCHES, ELEMENTS], where it counts, and which patches are masked
    [PATCHES, 1].
    """
    index, image, row, column, c, y, x, exists, inside = _places(
        patches, rows, columns, channels, patch, IMAGE_SHAPED, PATCHES, ELEMENTS
    )
    masked = tl.load(mask + index, mask=exists, other=0) != 0
    within = masked & inside

    base = image * image_n + row * patch * image_h + column * patch * image_w
    here = c * image_c + y * image_h + x * image_w
    target = tl.load(images + base + here, mask=within, other=0).to(COMPUTE)
    if HAS_MEAN:
        target -= tl.load(mean + c, mask=inside, other=0).to(COMPUTE)
    if HAS_STD:
        target /= tl.load(std + c, mask=inside, other=1).to(COMPUTE)
    if NORM:
        size = channels * patch * patch
        target -= tl.sum(tl.where(within, target, 0), axis=1)[:, None] / size
        # The mean was rounded: that of what is left mends it.
        target -= tl.sum(tl.where(within, target, 0), axis=1)[:, None] / size
        squares = tl.sum(tl.where(within, target * target, 0), axis=1)[:, None]
        target /= tl.sqrt(squares / (size - 1) + 1e-6)

    base = image * pred_n + row * pred_row + column * pred_column
    here = c * pred_c + y * pred_y + x * pred_x
    predicted = tl.load(pred + base + here, mask=within, other=0).to(COMPUTE)
    return predicted - target, within, masked


@triton.jit
def _partial_kernel(
    pred, images, mask, mean, std, partials, patches, rows, columns, channels, patch,
    pred_n, pred_row, pred_column, pred_c, pred_y, pred_x, image_n, image_c, image_h, image_w,
    HAS_MEAN: tl.constexpr, HAS_STD: tl.constexpr, NORM: tl.constexpr, IMAGE_SHAPED: tl.constexpr,
    COMPUTE: tl.constexpr, PATCHES: tl.constexpr, ELEMENTS: tl.constexpr, POWER: tl.constexpr,
):  # fmt: skip
    """First stage: every program's sum of losses; behind all of these, its masked patches."""
    difference, within, masked = _differences(
        pred, images, mask, mean, std, patches, rows, columns, channels, patch,
        pred_n, pred_row, pred_column, pred_c, pred_y, pred_x, image_n, image_c, image_h, image_w,
        HAS_MEAN, HAS_STD, NORM, IMAGE_SHAPED, COMPUTE, PATCHES, ELEMENTS,
    )  # fmt: skip
    losses = tl.abs(difference) if POWER == 1 else difference * difference
    by_patch = tl.sum(tl.where(within, losses, 0), axis=1)
    program = tl.program_id(0)
    tl.store(partials + program, tl.sum(by_patch, axis=0))
    count = tl.sum(tl.sum(masked.to(tl.int32), axis=1), axis=0)
    tl.store(partials + tl.num_programs(0) + program, count.to(COMPUTE))


@triton.jit
def _total_kernel(partials, out, programs, size, COMPUTE: tl.constexpr, BLOCK: tl.constexpr):
    """Second stage, one program: the mean over all masked elements, 0 without any."""
    lane = tl.arange(0, BLOCK)
    losses = tl.zeros((BLOCK,), COMPUTE)
    counts = tl.zeros((BLOCK,), COMPUTE)
    for start in range(0, programs, BLOCK):
        within = start + lane < programs
        losses += tl.load(partials + start + lane, mask=within, other=0)
        counts += tl.load(partials + programs + start + lane, mask=within, other=0)
    count = tl.sum(counts, axis=0)
    tl.store(out, tl.sum(losses, axis=0) / (tl.where(count > 0, count, 1) * size))


@triton.jit
def _gradient_kernel(
    pred, images, mask, mean, std, grad, masked_patches, out, patches, rows, columns, channels,
    patch, pred_n, pred_row, pred_column, pred_c, pred_y, pred_x, image_n, image_c, image_h,
    image_w, out_n, out_row, out_column, out_c, out_y, out_x,
    HAS_MEAN: tl.constexpr, HAS_STD: tl.constexpr, NORM: tl.constexpr, IMAGE_SHAPED: tl.constexpr,
    COMPUTE: tl.constexpr, PATCHES: tl.constexpr, ELEMENTS: tl.constexpr, POWER: tl.constexpr,
):  # fmt: skip
    difference, within, _ = _differences(
        pred, images, mask, mean, std, patches, rows, columns, channels, patch,
        pred_n, pred_row, pred_column, pred_c, pred_y, pred_x, image_n, image_c, image_h, image_w,
        HAS_MEAN, HAS_STD, NORM, IMAGE_SHAPED, COMPUTE, PATCHES, ELEMENTS,
    )  # fmt: skip
    count = tl.load(masked_patches).to(COMPUTE)
    size = channels * patch * patch
    scale = tl.load(grad).to(COMPUTE) / (tl.where(count > 0, count, 1) * size)
    if POWER == 1:
        slope = tl.where(difference > 0, scale, tl.where(difference < 0, -scale, 0))
    else:
        slope = 2 * difference * scale
    _, image, row, column, c, y, x, exists, inside = _places(
        patches, rows, columns, channels, patch, IMAGE_SHAPED, PATCHES, ELEMENTS
    )
    if out.dtype.element_ty != tl.float64:  # the interpreter narrows float32 alone
        slope = slope.to(tl.float32)
    base = image * out_n + row * out_row + column * out_column
    here = c * out_c + y * out_y + x * out_x
    tl.store(out + base + here, tl.where(within, slope, 0), mask=exists & inside)


# A program holds whole patches in registers: larger ones are the reference's. 16,384 elements are
# 73 x 73 pixels of three channels.
MAX_ELEMENTS = 16384


def _pred_strides(x: Tensor, patch: int, columns: int, channels: int) -> tuple[int, ...]:
    """Of (image, patch row, patch column, channel, y, x), in elements."""
    if x.dim() == 4:
        n, c, h, w = x.stride()
        return n, patch * h, patch * w, c, h, w
    n, token, step = x.stride()
    return n, columns * token, token, step, patch * channels * step, channels * step


class _Call:
    """What both directions have in common: arguments, constants and the number of programs."""

    def __init__(self, pred, images, mask, patch, norm_pix, p, mean, std):
        batch, channels, height, width = images.shape
        rows, columns = height // patch, width // patch
        self.size = patch * patch * channels
        elements = triton.next_power_of_2(self.size)
        patches = batch * rows * columns
        # The interpreter pays by the program.
        held = 4096 if images.is_cuda else 1 << 20
        each = max(1, min(held // elements, triton.next_power_of_2(patches)))
        self.programs = triton.cdiv(patches, each)
        self.dtype = reference.compute_dtype(pred, images)
        self.layout = (patch, columns, channels)
        mean = mean.contiguous() if mean is not None else None
        std = std.contiguous() if std is not None else None
        self.tensors = (
            pred, images, mask.contiguous().view(torch.uint8),
            mean if mean is not None else pred, std if std is not None else pred,
        )  # fmt: skip
        self.sizes = (
            patches, rows, columns, channels, patch,
            *_pred_strides(pred, *self.layout), *images.stride(),
        )  # fmt: skip
        self.constants = {
            "HAS_MEAN": mean is not None,
            "HAS_STD": std is not None,
            "NORM": norm_pix,
            "IMAGE_SHAPED": pred.dim() == 4,
            "COMPUTE": tl.float64 if self.dtype == torch.float64 else tl.float32,
            "PATCHES": each,
            "ELEMENTS": elements,
            "POWER": p,
            "num_warps": 4 if each * elements <= 4096 else 8,
        }


def _too_large(images: Tensor, patch: int) -> bool:
    return patch * patch * images.shape[1] > MAX_ELEMENTS


def masked_patch_loss(
    pred: Tensor,
    images: Tensor,
    mask: Tensor,
    patch_size: int,
    norm_pix: bool,
    p: int,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """Launcher of `ssl_fast::masked_patch_loss`; patches over MAX_ELEMENTS go to the reference."""
    arguments = (pred, images, mask, patch_size, norm_pix, p, mean, std)
    if _too_large(images, patch_size):
        return reference.masked_patch_loss(*arguments)
    call = _Call(*arguments)
    out = pred.new_empty((), dtype=call.dtype)
    if call.programs == 0:
        return out.zero_()
    partials = pred.new_empty((2, call.programs), dtype=call.dtype)
    _partial_kernel[(call.programs,)](*call.tensors, partials, *call.sizes, **call.constants)
    _total_kernel[(1,)](
        partials, out, call.programs, call.size, COMPUTE=call.constants["COMPUTE"], BLOCK=1024
    )
    return out


def masked_patch_loss_backward(
    grad: Tensor,
    pred: Tensor,
    images: Tensor,
    mask: Tensor,
    patch_size: int,
    norm_pix: bool,
    p: int,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """Launcher of `ssl_fast::masked_patch_loss_backward`; large patches as above."""
    arguments = (pred, images, mask, patch_size, norm_pix, p, mean, std)
    if _too_large(images, patch_size):
        return reference.masked_patch_loss_backward(grad, *arguments)
    call = _Call(*arguments)
    out = pred.new_empty(pred.shape)
    if call.programs:
        _gradient_kernel[(call.programs,)](
            *call.tensors, grad, mask.sum(), out, *call.sizes,
            *_pred_strides(out, *call.layout), **call.constants,
        )  # fmt: skip
    return out
