"""The reconstruction loss of masked image modelling: MAE's and SimMIM's.

Sources: He et al., "Masked Autoencoders Are Scalable Vision Learners" (2022); Xie et al., "SimMIM:
A Simple Framework for Masked Image Modeling" (2022); as in mmpretrain's MAEPretrainHead, SimMIMHead
and PixelReconstructionLoss.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._dispatch import register
from ..constants import constant
from . import reference

PRED_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
IMAGE_DTYPES = (torch.uint8, *PRED_DTYPES)
MASK_DTYPES = (*IMAGE_DTYPES, torch.int32, torch.int64)  # that kernels read as they are
Statistics = Tensor | Sequence[float] | float | None


def masked_patch_loss(
    pred: Tensor,
    images: Tensor,
    mask: Tensor,
    patch_size: int,
    norm_pix: bool = True,
    p: int = 2,
    mean: Statistics = None,
    std: Statistics = None,
) -> Tensor:
    """The error of predicted pixels, averaged over the masked patches.

    The target is made from the images where they lie, patch by patch: (images - mean) / std, then,
    with `norm_pix`, each patch less its mean and divided by sqrt(variance + 1e-6), the variance
    being the unbiased one. The loss is the sum over masked patches of the mean of
    |pred - target| ** p over the patch, divided by their number. Patches that are not masked are
    not read. Feed uint8 images with mean and std where you can: a quarter of the memory, and no
    normalised copy.

    MAE: as it stands (mmpretrain's MAEPretrainHead with criterion "L2" and norm_pix).
    SimMIM: `norm_pix=False, p=1`, with `pred` an image and `mask` on the model's own grid of
    patches (patch_size 4 for Swin). Equal to mmpretrain's SimMIMHead with criterion "L1" and
    `channel` = C; the original SimMIM adds 1e-5 to the number of masked pixels.

    Args:
        pred: [N, L, patch_size * patch_size * C], with the elements of a patch in the order (row,
            column, channel), or an image [N, C, H, W]; float16, bfloat16, float32 or float64, any
            strides.
        images: [N, C, H, W], uint8, float16, bfloat16, float32 or float64, any strides.
        mask: [N, L] or [N, H // patch_size, W // patch_size], of any type; nonzero where masked.
            A choice, not a weight: 0.5 counts as 1.
        patch_size: side of a patch in pixels; divides H and W.
        norm_pix: whether each patch is normalised.
        p: 1 for the absolute, 2 for the squared error.
        mean, std: per channel, or one for all, in the units of the images: a tensor on the device
            of the images, numbers, or None.

    Returns:
        The loss, a float32 scalar (float64 if pred or images are), accumulated in that type
        whatever pred's; under autocast as without it. Differentiable once, to `pred` alone: images,
        mean and std are taken as constants. 0 with a gradient of 0 if nothing is masked.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: for another shape, device or value.
    """
    check_options(patch_size, norm_pix, p)
    _check_images(images, patch_size, norm_pix)
    _check_pred(pred, images, patch_size)
    masked = _check_mask(mask, images, patch_size)
    mean = _statistics("mean", mean, images)
    std = _statistics("std", std, images)
    images = images.detach() if images.requires_grad else images
    loss, _ = _masked_patch_loss(pred, images, masked, patch_size, norm_pix, int(p), mean, std)
    return loss


def check_options(patch_size: Any, norm_pix: Any, p: Any) -> None:
    """Raises unless the options are what the loss takes."""
    if not isinstance(patch_size, int) or isinstance(patch_size, bool):
        kind = type(patch_size).__name__
        raise TypeError(f"patch_size is {patch_size!r} ({kind}); expected an int")
    if patch_size < 1:
        raise ValueError(f"patch_size is {patch_size}; expected 1 or more")
    if not isinstance(norm_pix, bool):
        raise TypeError(f"norm_pix is {norm_pix!r}; expected True or False")
    if isinstance(p, bool) or p not in (1, 2):
        raise ValueError(f"p is {p!r}; accepted are 1 (absolute error) and 2 (squared error)")


def _check_images(images: Any, patch_size: int, norm_pix: bool) -> None:
    _check_tensor("images", images, IMAGE_DTYPES)
    if images.dim() != 4:
        raise ValueError(f"images has shape {tuple(images.shape)}; expected [N, C, H, W]")
    channels, height, width = images.shape[1:]
    if height < 1 or width < 1 or channels < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"images has shape {tuple(images.shape)}; height and width must be multiples of "
            f"patch_size ({patch_size}), and nothing but the batch may be empty"
        )
    if norm_pix and patch_size * patch_size * channels < 2:
        raise ValueError("norm_pix needs patches of two values or more; these have one")


def _check_pred(pred: Any, images: Tensor, patch_size: int) -> None:
    _check_tensor("pred", pred, PRED_DTYPES)
    _check_device("pred", pred, images)
    batch, channels, height, width = images.shape
    total = (height // patch_size) * (width // patch_size)
    tokens = (batch, total, patch_size * patch_size * channels)
    if tuple(pred.shape) not in (tokens, tuple(images.shape)):
        raise ValueError(
            f"pred has shape {tuple(pred.shape)}; expected {tokens}, tokens of patch_size "
            f"{patch_size}, or {tuple(images.shape)}, as the images"
        )


def _check_mask(mask: Any, images: Tensor, patch_size: int) -> Tensor:
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask is a {type(mask).__name__}; expected a tensor")
    _check_device("mask", mask, images)
    batch, _, height, width = images.shape
    grid = (height // patch_size, width // patch_size)
    total = grid[0] * grid[1]
    if tuple(mask.shape) not in ((batch, total), (batch, *grid)):
        expected = f"({batch}, {total}) or ({batch}, {grid[0]}, {grid[1]})"
        raise ValueError(f"mask has shape {tuple(mask.shape)}; expected {expected}")
    # Triton and the reference ask themselves what is not zero: a launch less.
    if not (mask.is_cuda and mask.dtype in MASK_DTYPES) and mask.dtype != torch.bool:
        mask = mask != 0
    return mask if mask.dim() == 2 else mask.flatten(1)


def _statistics(name: str, value: Any, images: Tensor) -> Tensor | None:
    """`value` as a tensor [C] of the type that images are computed in."""
    if value is None:
        return None
    channels = images.shape[1]
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    if not isinstance(value, Tensor):
        numbers_of = (value,) if isinstance(value, numbers.Real) else tuple(value)
        _check_numbers(name, numbers_of)
        value = constant(numbers_of, dtype, images)
    _check_device(name, value, images)
    if value.numel() not in (1, channels):
        raise ValueError(f"{name} has {value.numel()} values; the images have {channels} channels")
    if value.shape == (channels,) and value.dtype == dtype and not value.requires_grad:
        return value
    return value.detach().reshape(-1).to(dtype).expand(channels)


def _check_numbers(name: str, values: tuple[Any, ...]) -> None:
    for number in values:
        if not isinstance(number, numbers.Real) or isinstance(number, bool):
            raise TypeError(f"{name} is {values!r}; expected a tensor, numbers or None")
        if not math.isfinite(number) or (name == "std" and number <= 0):
            accepted = "positive numbers" if name == "std" else "finite numbers"
            raise ValueError(f"{name} is {values!r}; accepted are {accepted}")


def _check_tensor(name: str, value: Any, dtypes: tuple[torch.dtype, ...]) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor")
    if value.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name} is {value.dtype}; accepted are {names}")


def _check_device(name: str, tensor: Tensor, images: Tensor) -> None:
    if tensor.device != images.device:
        raise ValueError(f"{name} is on {tensor.device}, images on {images.device}")


def _fake(pred: Tensor, images: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    dtype = reference.compute_dtype(pred, images)
    return pred.new_empty((), dtype=dtype), pred.new_empty((), dtype=dtype)


def _fake_backward(grad: Tensor, count: Tensor, pred: Tensor, *rest: Any) -> Tensor:
    return pred.new_empty(pred.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    pred, images, mask, *options, mean, std = inputs
    _, count = output
    ctx.mark_non_differentiable(count)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(count, pred, images, mask, mean, std)
    ctx.options = options


def _backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    # The target is made a second time: reading masked patches twice moves fewer bytes than writing
    # a gradient in the forward and scaling it here, and nothing the size of `pred` waits between.
    gradient = None
    if grad is not None:
        *tensors, mean, std = ctx.saved_tensors
        gradient = _masked_patch_loss_backward(grad, *tensors, *ctx.options, mean, std)
    return (gradient, *[None] * 7)


_ARGUMENTS = (
    "Tensor pred, Tensor images, Tensor mask, int patch_size, bool norm_pix, int p, "
    "Tensor? mean=None, Tensor? std=None"
)
_masked_patch_loss_backward = register(
    f"masked_patch_loss_backward(Tensor grad, Tensor count, {_ARGUMENTS}) -> Tensor",
    reference=reference.masked_patch_loss_backward,
    fake=_fake_backward,
    triton=True,
)
_masked_patch_loss = register(
    f"masked_patch_loss({_ARGUMENTS}) -> (Tensor, Tensor)",
    reference=reference.masked_patch_loss,
    fake=_fake,
    triton=True,
    backward=_backward,
    setup_context=_setup_context,
)
