"""The masked patch loss on a GPU: how its kernels are launched."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference
from .triton_patches import _gradient_kernel, _partial_kernel, _total_kernel

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
