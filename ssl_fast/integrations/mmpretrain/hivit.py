"""The hierarchical encoders of MAE and iTPN: embed the patches that stay visible alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ... import ops
from ...ops.tokens.embed import visible_patches
from ._patches import patches
from .masking import drawn, is_masked
from .serving import calls_known, fast_on, feeds, is_plain

_EMBED = {"mmpretrain.models.backbones.hivit:PatchEmbed.forward": ("4fb64c999ece",)}
_GAIN = "only visible patches are embedded"


@patches.replaces(
    "mmpretrain.models.selfsup.mae:MAEHiViT.forward",
    "d2ab25714edc",
    gain=_GAIN,
    relies_on={"mmpretrain.models.selfsup.mae:MAEHiViT.masking_id": ("e5d2ea253e3f",), **_EMBED},
)
def mae_hivit_forward(original: Any, self: Any, x: Tensor, mask: bool | None = True) -> Any:
    if mask is None or not _embeds_alone(self, x):
        return original(self, x, mask)
    outs, masked, ids_restore = _encoded(self, x)
    return outs[-1], masked, ids_restore


@patches.replaces(
    "mmpretrain.models.selfsup.itpn:iTPNHiViT.forward_pixel",
    "cfdaeba94819",
    gain=_GAIN,
    relies_on={"mmpretrain.models.selfsup.itpn:iTPNHiViT.masking_id": ("6ec6dac47b82",), **_EMBED},
)
def itpn_forward_pixel(original: Any, self: Any, x: Tensor, mask: bool | None = True) -> Any:
    if mask is None or not _embeds_alone(self, x):
        return original(self, x, mask)
    return _encoded(self, x)


def _embeds_alone(self: Any, x: Tensor) -> bool:
    """Whether each patch of images x is embedded without a look at the others."""
    from mmpretrain.models.backbones.hivit import PatchEmbed

    embed, positions = self.patch_embed, self.pos_embed
    if not is_plain(embed, PatchEmbed) or not is_plain(embed.proj, nn.Conv2d) or x.dim() != 4:
        return False
    projection, (height, width) = embed.proj, embed.patch_size
    rows, columns = x.shape[2] // height, x.shape[3] // width
    sides = (height // embed.inner_patches, width // embed.inner_patches)
    return (
        projection.kernel_size == projection.stride == sides
        and (*projection.padding, *projection.dilation) == (0, 0, 1, 1)
        and (embed.norm is None or isinstance(embed.norm, nn.LayerNorm))
        and tuple(x.shape[2:]) == (rows * height, columns * width)
        and positions.shape[1] == rows * columns
        and fast_on(x, projection.weight, positions)
        and feeds(x, projection.weight)
        and calls_known(self, "masking_id")
        and is_masked(x, rows * columns, self.mask_ratio)
        and self.num_main_blocks > 0
    )


def _encoded(self: Any, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Features before each merge of patches and at the end; the mask; ids to restore."""
    from mmpretrain.models.backbones.hivit import PatchMerge

    batch, _, height, width = x.shape
    ids_keep, ids_restore, mask = drawn(batch, self.pos_embed.shape[1], self.mask_ratio, x.device)
    # A patch is an image of one patch.
    x = visible_patches(x, ids_keep, *self.patch_embed.patch_size)
    x = self.patch_embed(x.flatten(0, 1)).unflatten(0, ids_keep.shape).squeeze(2)
    outs = []
    for block in self.blocks[: -self.num_main_blocks]:
        if isinstance(block, PatchMerge):
            outs.append(x)
        x = block(x)
    x = x[..., 0, 0, :]
    if self.ape:
        positions = self.interpolate_pos_encoding(x, height, width)
        x = x + ops.gather_tokens(positions.expand(batch, -1, -1), ids_keep)
    x = self.pos_drop(x)
    for block in self.blocks[-self.num_main_blocks :]:
        x = block(x)
    return (*outs, x), mask, ids_restore
