"""Losses of predicted pixels.

Where no patch is masked, these losses are 0, and mmpretrain's NaN; and predictions that are NaN
where nothing is masked do not show in them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import ops
from ._patches import patches
from .serving import FLOATS, calls_known, fast_on, is_binary, is_plain, is_worth

_HEADS = "mmpretrain.models.heads"
_LOSS = {
    "mmpretrain.models.losses.reconstruction_loss:PixelReconstructionLoss.forward": (
        "0eb1c6969846",
    )
}
_MAE = {
    f"{_HEADS}.mae_head:MAEPretrainHead.patchify": ("7063d1eea6b0",),
    f"{_HEADS}.mae_head:MAEPretrainHead.construct_target": ("2b210e52a4e8",),
}
_SPARK = {
    f"{_HEADS}.spark_head:SparKPretrainHead.patchify": ("4bdac92a2415",),
    f"{_HEADS}.spark_head:SparKPretrainHead.construct_target": ("494c1de4e9d4",),
}
_GAIN = "reads masked patches of the image where they lie, and writes one gradient"


@patches.replaces(
    f"{_HEADS}.mae_head:MAEPretrainHead.loss", "329cd12e5709", gain=_GAIN, relies_on=_LOSS | _MAE
)
def mae_loss(original: Any, self: Any, pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    power = _power(self.loss_module)
    if (
        not power
        or not calls_known(self, "construct_target", "patchify")
        or not _is_measured(pred, target, mask, self.patch_size)
        or target.shape[1] != self.in_channels
        or target.shape[2] != target.shape[3]
        or pred.dim() != 3
        or mask.dim() != 2
    ):
        return original(self, pred, target, mask)
    norm_pix = bool(self.norm_pix)
    loss = ops.masked_patch_loss(pred, target, mask, self.patch_size, norm_pix, power)
    return loss / self.loss_module.channel


@patches.replaces(
    f"{_HEADS}.simmim_head:SimMIMHead.loss", "ff859af4cab8", gain=_GAIN, relies_on=_LOSS
)
def simmim_loss(original: Any, self: Any, pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    power = _power(self.loss_module)
    if (
        not power
        or not is_worth(pred.numel())
        or not _is_measured(pred, target, mask, self.patch_size)
        or pred.dim() != 4
        or mask.dim() != 3
    ):
        return original(self, pred, target, mask)
    loss = ops.masked_patch_loss(pred, target, mask, self.patch_size, norm_pix=False, p=power)
    # Ours is a mean over channels; here their sum is divided by what the user says.
    return loss * (pred.shape[1] / self.loss_module.channel)


@patches.replaces(
    f"{_HEADS}.spark_head:SparKPretrainHead.forward",
    "ec2281b0a5cf",
    gain=_GAIN,
    relies_on=_LOSS | _SPARK,
)
def spark_loss(
    original: Any, self: Any, pred: Tensor, target: Tensor, active_mask: Tensor
) -> Tensor:
    power = _power(self.loss)
    mask = active_mask.logical_not().flatten(1)
    if (
        not power
        or not calls_known(self, "construct_target", "patchify")
        or not _is_measured(pred, target, mask, self.patch_size)
        or pred.dim() != 4
    ):
        return original(self, pred, target, active_mask)
    norm_pix = bool(self.norm_pix)
    loss = ops.masked_patch_loss(pred, target, mask, self.patch_size, norm_pix, power)
    return loss / self.loss.channel


def _construct_target(original: Any, self: Any, target: Tensor) -> Tensor:
    if not self.norm_pix or target.dtype != torch.float32:
        return original(self, target)
    patched = self.patchify(target)
    size = patched.shape[-1]
    if size < 2:
        return original(self, target)
    # What is asked for has the unbiased variance, which is this times that of layer_norm.
    excess = size / (size - 1)
    scale = patched.new_full((size,), excess**-0.5)
    return F.layer_norm(patched, (size,), scale, None, 1e-6 / excess)


for _place, _known in (_MAE | _SPARK).items():
    if _place.endswith("construct_target"):
        patches.replaces(_place, *_known, gain="normalises patches in one pass")(_construct_target)


@patches.replaces(
    next(iter(_LOSS)), *_LOSS[next(iter(_LOSS))], gain="without a mask, writes one gradient"
)
def pixel_loss(
    original: Any, self: Any, pred: Tensor, target: Tensor, mask: Tensor | None = None
) -> Tensor:
    # With a mask, torch's elementwise operations are as few as ours would be.
    if mask is not None or not _power(self) or pred.shape != target.shape:
        return original(self, pred, target, mask)
    measure = F.mse_loss if _power(self) == 2 else F.l1_loss
    return measure(pred, target)


def _power(loss: Any) -> int:
    """1 or 2 for a PixelReconstructionLoss of absolute or squared errors, 0 for anything else."""
    from mmpretrain.models.losses import PixelReconstructionLoss

    if not is_plain(loss, PixelReconstructionLoss) or not calls_known(loss, "forward"):
        return 0
    if not is_plain(loss.penalty, nn.L1Loss, nn.MSELoss) or loss.penalty.reduction != "none":
        return 0
    return 1 if type(loss.penalty) is nn.L1Loss else 2


def _is_measured(pred: Tensor, target: Tensor, mask: Any, patch_size: Any) -> bool:
    """Whether masked patches of a target that is an image are compared to pred, in float32."""
    if not isinstance(patch_size, int) or not isinstance(mask, Tensor) or target.dim() != 4:
        return False
    batch, channels, height, width = target.shape
    rows, columns = height // patch_size, width // patch_size
    tokens = (batch, rows * columns, patch_size * patch_size * channels)
    return (
        (rows * patch_size, columns * patch_size) == (height, width)
        and tuple(pred.shape) in (tokens, tuple(target.shape))
        and tuple(mask.shape) in ((batch, rows * columns), (batch, rows, columns))
        and target.dtype == torch.float32
        and not target.requires_grad
        and pred.dtype in FLOATS[:3]
        and mask.dtype != torch.float64
        and not torch.compiler.is_compiling()  # which makes few kernels of the original anyway
        and fast_on(pred, target, mask)
        and is_binary(mask)
    )
