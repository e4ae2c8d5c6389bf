"""The masked patch loss in plain torch: what the kernels must agree with.

The target of He et al., "Masked Autoencoders Are Scalable Vision Learners" (2022), and of Xie et
al., "SimMIM: A Simple Framework for Masked Image Modeling" (2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6  # added to the variance of a patch


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[N, C, H, W] to [N, L, patch_size * patch_size * C], in the order (row, column, channel)."""
    batch, channels, height, width = images.shape
    grid = (height // patch_size, patch_size, width // patch_size, patch_size)
    patches = images.reshape(batch, channels, *grid).permute(0, 2, 4, 3, 5, 1)
    return patches.reshape(batch, grid[0] * grid[2], patch_size * patch_size * channels)


def unpatchify(patches: Tensor, patch_size: int, shape: torch.Size) -> Tensor:
    """The inverse of `patchify`: back to images of this shape, [N, C, H, W]."""
    batch, channels, height, width = shape
    grid = (height // patch_size, width // patch_size, patch_size, patch_size, channels)
    images = patches.reshape(batch, *grid).permute(0, 5, 1, 3, 2, 4)
    return images.reshape(shape)


def compute_dtype(pred: Tensor, images: Tensor) -> torch.dtype:
    """What the loss is computed and returned in."""
    wide = torch.float64 in (pred.dtype, images.dtype)
    return torch.float64 if wide else torch.float32


def targets(
    images: Tensor,
    dtype: torch.dtype,
    patch_size: int,
    norm_pix: bool,
    mean: Tensor | None,
    std: Tensor | None,
) -> Tensor:
    """What the model is to predict: [N, L, patch_size * patch_size * C]."""
    images = images.to(dtype)
    if mean is not None:
        images = images - mean.to(dtype)[:, None, None]
    if std is not None:
        images = images / std.to(dtype)[:, None, None]
    patches = patchify(images, patch_size)
    if norm_pix:
        patches = patches - patches.mean(dim=-1, keepdim=True)
        variance = patches.square().sum(dim=-1, keepdim=True) / (patches.shape[-1] - 1)
        patches = patches / (variance + EPS).sqrt()
    return patches


def _differences(
    pred: Tensor,
    images: Tensor,
    patch_size: int,
    norm_pix: bool,
    mean: Tensor | None,
    std: Tensor | None,
) -> Tensor:
    dtype = compute_dtype(pred, images)
    predicted = patchify(pred, patch_size) if pred.dim() == 4 else pred
    return predicted.to(dtype) - targets(images, dtype, patch_size, norm_pix, mean, std)


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
    """The mean over masked patches of the mean of |difference| ** p, 0 without masked patches; and
    the number of masked patches, of the same dtype.
    """
    mask = mask != 0
    differences = _differences(pred, images, patch_size, norm_pix, mean, std)
    losses = (differences.abs() if p == 1 else differences.square()).mean(dim=-1)
    # Not a product: what is not masked does not count, even if it is NaN.
    total = torch.where(mask, losses, 0).sum()
    count = mask.sum(dtype=total.dtype)
    return total / count.clamp(min=1), count


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
    """The gradient of `masked_patch_loss` to `pred`, times `grad`; of pred's shape and dtype.

    Args:
        count: the number of masked patches, as the loss returns it.
    """
    differences = _differences(pred, images, patch_size, norm_pix, mean, std)
    slopes = differences.sign() if p == 1 else 2 * differences
    scale = grad / (count.clamp(min=1) * differences.shape[-1])
    slopes = torch.where((mask != 0)[..., None], slopes * scale, 0)
    if pred.dim() == 4:
        slopes = unpatchify(slopes, patch_size, pred.shape)
    return slopes.to(pred.dtype).contiguous()
