"""Masks of the MAE family, and encoders that embed the patches that these leave visible alone.

The random numbers are those of mmpretrain, drawn as it draws them: with the same seed its masks are
ours, but for samples in which two of them are equal, of which mmpretrain leaves the order open.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...ops.masks.arguments import MAX_CELLS
from ._patches import patches
from .serving import FLOATS, calls_known, fast_on, feeds, is_plain, is_worth, marked_binary

_MAE = "mmpretrain.models.selfsup.mae"
_ITPN = "mmpretrain.models.selfsup.itpn"
_MILAN = "mmpretrain.models.selfsup.milan"
_EMBED = {"mmcv.cnn.bricks.transformer:PatchEmbed.forward": ("5297ce86121c",)}


@patches.replaces(
    f"{_MAE}:MAEViT.random_masking",
    "da9559e57ba2",
    gain="one sort and one copy of the visible tokens",
)
def random_masking(original: Any, self: Any, x: Tensor, mask_ratio: float = 0.75) -> Any:
    if not (_is_tokens(x) and is_masked(x, x.shape[1], mask_ratio)):
        return original(self, x, mask_ratio)
    noise = torch.rand(x.shape[:2], device=x.device)
    x, mask, ids_restore = ops.random_masking(x, mask_ratio, noise=noise)
    return x, marked_binary(mask), ids_restore


@patches.replaces(
    f"{_MAE}:MAEViT.forward",
    "cf2c184f5c62",
    gain="only visible patches are embedded",
    relies_on={f"{_MAE}:MAEViT.random_masking": ("da9559e57ba2",), **_EMBED},
)
def mae_forward(original: Any, self: Any, x: Tensor, mask: bool | None = True) -> Any:
    length = self.pos_embed.shape[1] - 1
    if (
        mask is None
        or not calls_known(self, "random_masking")
        or not _embeds_alone(self, x)
        or not is_masked(x, length, self.mask_ratio)
    ):
        return original(self, x, mask)
    ids_keep, ids_restore, masked = drawn(len(x), length, self.mask_ratio, x.device)
    return _encoded(self, x, ids_keep), masked, ids_restore


def _masking_id(original: Any, self: Any, batch_size: int, mask_ratio: float) -> Any:
    if not is_masked(self.pos_embed, self.pos_embed.size(1), mask_ratio):
        return original(self, batch_size, mask_ratio)
    return drawn(batch_size, self.pos_embed.size(1), mask_ratio, self.pos_embed.device)


patches.replaces(f"{_MAE}:MAEHiViT.masking_id", "e5d2ea253e3f", gain="one sort")(_masking_id)
patches.replaces(f"{_ITPN}:iTPNHiViT.masking_id", "6ec6dac47b82", gain="one sort")(_masking_id)


@patches.replaces(
    f"{_MILAN}:MILANViT.attention_masking",
    "4a957655ff15",
    gain="one sort and one copy of the visible tokens, and no wait for the device",
)
def attention_masking(
    original: Any, self: Any, x: Tensor, mask_ratio: float, importance: Tensor
) -> Any:
    if not (_is_tokens(x) and _is_importance(importance, x, x.shape[1], mask_ratio)):
        return original(self, x, mask_ratio, importance)
    ids_restore, ids_keep, ids_dump = _drawn_by(importance, mask_ratio, x.device)
    return ops.gather_tokens(x, ids_keep), ids_restore, ids_keep, ids_dump


@patches.replaces(
    f"{_MILAN}:MILANViT.forward",
    "525698529a4c",
    gain="only visible patches are embedded",
    relies_on={f"{_MILAN}:MILANViT.attention_masking": ("4a957655ff15",), **_EMBED},
)
def milan_forward(original: Any, self: Any, x: Tensor, importance: Tensor | None) -> Any:
    if (
        importance is None
        or not calls_known(self, "attention_masking")
        or not _embeds_alone(self, x)
        or not _is_importance(importance, x, self.pos_embed.shape[1] - 1, self.mask_ratio)
    ):
        return original(self, x, importance)
    ids_restore, ids_keep, ids_dump = _drawn_by(importance, self.mask_ratio, x.device)
    return _encoded(self, x, ids_keep), ids_restore, ids_keep, ids_dump


def _is_tokens(x: Tensor) -> bool:
    """Whether these are tokens that we gather, and enough of them."""
    return x.dim() == 3 and x.dtype in FLOATS and is_worth(x.numel())


def is_masked(x: Tensor, length: int, mask_ratio: float) -> bool:
    """Whether masks of this kind, where x is, are ours to draw."""
    # Of upstream's mask the dtype is torch's default, of ours float32.
    usual = torch.get_default_dtype() == torch.float32
    return fast_on(x) and usual and 1 <= length <= MAX_CELLS and 0 <= mask_ratio <= 1


def _is_importance(importance: Tensor, x: Tensor, length: int, mask_ratio: float) -> bool:
    shape, dtype = tuple(importance.shape), importance.dtype
    return is_masked(x, length, mask_ratio) and shape == (len(x), length) and dtype in FLOATS


def drawn(batch: int, length: int, mask_ratio: float, device: torch.device) -> Any:
    """Ids to keep, ids to restore, and the mask, uniformly drawn."""
    noise = torch.rand(batch, length, device=device)
    ids_keep, ids_restore, mask = ops.random_mask(batch, length, mask_ratio, noise=noise)
    return ids_keep, ids_restore, marked_binary(mask)


@torch.no_grad()
def _drawn_by(importance: Tensor, mask_ratio: float, device: torch.device) -> Any:
    """Ids to restore, to keep and to dump: drawn one after the other by importance.

    `torch.multinomial` without replacement, and its random numbers: the order of importance over
    exponential noise. It also looks for values that are no probabilities; on a GPU the look would
    be a synchronisation, and NaN counts as the least important here.
    """
    importance = importance.to(device)
    batch, length = importance.shape
    if device.type == "cpu" and importance.numel():
        low, high = torch.aminmax(importance)
        if not (low >= 0 and high < torch.inf) or not importance.sum(dim=1).all():
            torch.multinomial(importance, length)  # raises
    noise = -(importance / torch.empty_like(importance).exponential_())
    ids, ids_restore, _ = ops.random_mask(batch, length, 0.0, noise=noise)
    kept = int(length * (1 - mask_ratio))
    return ids_restore, ids[:, :kept], ids[:, kept:]


def _embeds_alone(self: Any, x: Tensor) -> bool:
    """Whether the patch embedding of images x is one product of each patch and nothing else."""
    from mmcv.cnn.bricks.transformer import AdaptivePadding, PatchEmbed

    embed: Any = self.patch_embed
    projection: Any = getattr(embed, "projection", None)
    if not is_plain(embed, PatchEmbed) or not is_plain(projection, nn.Conv2d) or x.dim() != 4:
        return False
    padding = embed.adaptive_padding
    if padding is not None and not is_plain(padding, AdaptivePadding):
        return False
    weight, kernel = projection.weight, projection.kernel_size
    rows, columns = x.shape[2] // kernel[0], x.shape[3] // kernel[1]
    return (
        embed.norm is None
        and projection.stride == kernel
        and (*projection.padding, *projection.dilation) == (0, 0, 1, 1)
        and projection.groups == 1
        and tuple(x.shape[1:]) == (weight.shape[1], rows * kernel[0], columns * kernel[1])
        and tuple(self.pos_embed.shape) == (1, rows * columns + 1, weight.shape[0])
        and fast_on(x, weight, self.pos_embed)
        and feeds(x, weight)
    )


def _encoded(self: Any, x: Tensor, ids_keep: Tensor) -> Tensor:
    """The class token and the patches `ids_keep` of images x, through the transformer."""
    projection, positions = self.patch_embed.projection, self.pos_embed
    x = ops.embed_visible_patches(
        x, projection.weight, projection.bias, ids_keep, positions[:, 1:, :]
    )
    cls_token = (self.cls_token + positions[:, :1, :]).expand(len(x), -1, -1)
    x = torch.cat((cls_token, x), dim=1)
    for layer in self.layers:
        x = layer(x)
    return self.norm1(x)
