"""MAE: reconstruct the pixels of masked patches from the visible ones alone.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners" (2022).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from .._compat import import_timm
from .base import BaseSelfSupervisor
from .masked import VisibleViT
from .positions import fix_positions, sincos_positions
from .registry import MODELS


@MODELS.register
class MAEPretrainDecoder(nn.Module):
    """A small transformer from the visible tokens to the pixels of all patches.

    Args:
        grid: rows and columns of patches.
        patch_size: side of a patch in pixels.
        in_chans: channels of the images.
        embed_dim: D of the encoder's tokens.
        decoder_embed_dim, decoder_depth, decoder_num_heads, mlp_ratio: of the decoder.
        num_prefix_tokens: tokens before those of the patches.
    """

    pos_embed: Tensor

    def __init__(
        self,
        grid: tuple[int, int] = (14, 14),
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_prefix_tokens: int = 1,
    ) -> None:
        super().__init__()
        block = import_timm().models.vision_transformer.Block
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.num_prefix_tokens = num_prefix_tokens
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(decoder_embed_dim))
        self.register_buffer(
            "pos_embed", sincos_positions(grid, decoder_embed_dim, num_prefix_tokens)
        )
        self.decoder_blocks = nn.Sequential(
            *(
                block(
                    decoder_embed_dim, decoder_num_heads, mlp_ratio, qkv_bias=True, norm_layer=norm
                )
                for _ in range(decoder_depth)
            )
        )
        self.decoder_norm = norm(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * in_chans)
        nn.init.normal_(self.mask_token, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, ids_restore: Tensor) -> Tensor:
        """Predicted pixels of all patches.

        Args:
            x: [N, P + K, D], prefix tokens and visible patches in the order of `ids_restore`.
            ids_restore: [N, L] int64, where each patch stands among the shuffled ones.

        Returns:
            [N, L, patch_size ** 2 * in_chans], in the order (row, column, channel).
        """
        tokens = ops.restore_tokens(
            self.decoder_embed(x),
            ids_restore,
            self.mask_token,
            self.pos_embed,
            self.num_prefix_tokens,
        )
        tokens = self.decoder_norm(self.decoder_blocks(tokens))
        return self.decoder_pred(tokens[:, self.num_prefix_tokens :])


@MODELS.register
class MAEPretrainHead(nn.Module):
    """The distance of predicted pixels from those of the image, over masked patches.

    Args:
        patch_size: side of a patch in pixels.
        norm_pix: whether the pixels of a patch are normalised by its own mean and variance.
    """

    def __init__(self, patch_size: int = 16, norm_pix: bool = True) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.norm_pix = norm_pix

    def loss(
        self,
        pred: Tensor,
        target: Tensor,
        mask: Tensor,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> Tensor:
        """See `ssl_fast.ops.masked_patch_loss`; target are the images [N, C, H, W]."""
        return ops.masked_patch_loss(
            pred, target, mask, self.patch_size, norm_pix=self.norm_pix, mean=mean, std=std
        )


@MODELS.register
class MAE(BaseSelfSupervisor):
    """The encoder sees a quarter of the patches; a decoder predicts the pixels of the others.

    Only visible patches are embedded, and the loss reads the images as they come: uint8 where the
    preprocessor keeps them (`keep_uint8`).

    Args:
        backbone: called with (images, ids_keep, mean, std), such as `VisibleViT`.
        neck: called with (tokens, ids_restore), such as `MAEPretrainDecoder`.
        head: with `loss(pred, images, mask, mean, std)`, such as `MAEPretrainHead`.
        mask_ratio: share of the patches masked, in [0, 1]; int(L * (1 - ratio)) are kept.
        target_generator, pretrained, data_preprocessor, init_cfg: see `BaseSelfSupervisor`.

    Raises:
        ValueError: for a mask_ratio out of range.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | nn.Module,
        neck: dict[str, Any] | nn.Module,
        head: dict[str, Any] | nn.Module,
        mask_ratio: float = 0.75,
        **options: Any,
    ) -> None:
        super().__init__(backbone=backbone, neck=neck, head=head, **options)
        if not 0 <= mask_ratio <= 1:
            raise ValueError(f"mask_ratio is {mask_ratio}; accepted are 0 to 1")
        self.mask_ratio = mask_ratio

    def sample_mask(
        self,
        num_samples: int,
        grid: tuple[int, int],
        num_masked: int | None = None,
        *,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Random patches: (ids_keep [N, K], ids_restore [N, L], mask [N, L]); see `random_mask`.

        Args:
            num_samples, grid: N, and rows and columns of patches.
            num_masked: how many are masked; None for the share mask_ratio.
            device: of the result; None for the model's.
            options: seed, sample_ids.
        """
        patches = grid[0] * grid[1]
        ratio = self.mask_ratio
        if num_masked is not None:  # half a patch less, so that no rounding keeps one too few
            ratio = max(0.0, num_masked - 0.5) / patches
        device = next(self.parameters()).device if device is None else device
        return ops.random_mask(num_samples, patches, ratio, device=device, **options)

    def loss(self, inputs: Tensor, data_samples: Any = None) -> dict[str, Tensor]:
        """The MAE loss of a batch [N, C, H, W], uint8 or normalised floats: {"loss": scalar}."""
        pred, mask, mean, std = self._predict(inputs, data_samples)
        return {"loss": self.head.loss(pred, inputs, mask, mean, std)}

    def _predict(
        self, inputs: Tensor, data_samples: Any
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        ids_keep, ids_restore, mask = self.sample_mask(
            len(inputs),
            self.backbone.grid,
            device=inputs.device,
            **self.randomness_of(data_samples),
        )
        mean, std = self.data_preprocessor.statistics(inputs)
        pred = self.neck(self.backbone(inputs, ids_keep, mean, std), ids_restore)
        return pred, mask, mean, std

    @torch.no_grad()
    def visualize(self, images: Tensor, data_samples: Any = None) -> tuple[Tensor, Tensor]:
        """Masks and reconstructions of uint8 images [N, C, H, W].

        Pixels that were predicted relative to their patch get the patch's own mean and deviation.

        Returns:
            mask [N, h, w] bool, and images uint8 [N, C, H, W], as they are where not masked.
        """
        pred, mask, _, _ = self._predict(images, data_samples)
        mask = mask.view(len(images), *self.backbone.grid).bool()
        size = self.backbone.patch_size
        if self.head.norm_pix:
            target = patchify(self.normalized(images).float(), size)
            deviation = (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
            pred = pred * deviation + target.mean(dim=-1, keepdim=True)
        pixels = unpatchify(pred.float(), size, self.backbone.grid)
        return mask, paste(pixels, images, mask, *self.data_preprocessor.statistics(images))


def patchify(images: Tensor, size: int) -> Tensor:
    """[N, C, H, W] to [N, L, size * size * C], in the order (row, column, channel)."""
    grid = images.unflatten(-2, (-1, size)).unflatten(-1, (-1, size))
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)


def unpatchify(tokens: Tensor, size: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patchify`."""
    pixels = tokens.view(len(tokens), *grid, size, size, -1)
    return pixels.permute(0, 5, 1, 3, 2, 4).flatten(-2).flatten(-3, -2)


def paste(
    pixels: Tensor, images: Tensor, mask: Tensor, mean: Tensor | None, std: Tensor | None
) -> Tensor:
    """uint8 images [N, C, H, W] with normalised `pixels` where `mask` [N, h, w] is set."""
    if mean is not None and std is not None:
        pixels = pixels * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
    pixels = pixels.round().clamp(0, 255).to(torch.uint8)
    side = images.shape[-2] // mask.shape[-2]
    hidden = mask.repeat_interleave(side, -2).repeat_interleave(side, -1)
    return torch.where(hidden[:, None], pixels, images)


def mae_config(
    backbone: str,
    image_size: int,
    patch_size: int | None = None,
    mask_ratio: float = 0.75,
    norm_pix: bool = True,
    decoder_dim: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
    backbone_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of an MAE over a ViT of timm, whose positions are fixed to sines and cosines.

    Args:
        backbone: a ViT of timm.
        image_size, patch_size: in pixels; patch_size None for the backbone's own.
        mask_ratio, norm_pix: see `MAE` and `MAEPretrainHead`.
        decoder_dim, decoder_depth, decoder_heads: of the decoder.
        backbone_options: of `timm.create_model`.
    """
    vit = VisibleViT(backbone, image_size, patch_size, **(backbone_options or {}))
    fix_positions(vit.model, vit.grid)
    return dict(
        type="MAE",
        backbone=vit,
        neck=dict(
            type="MAEPretrainDecoder",
            grid=vit.grid,
            patch_size=vit.patch_size,
            embed_dim=vit.num_features,
            decoder_embed_dim=decoder_dim,
            decoder_depth=decoder_depth,
            decoder_num_heads=decoder_heads,
            num_prefix_tokens=vit.num_prefix_tokens,
        ),
        head=dict(type="MAEPretrainHead", patch_size=vit.patch_size, norm_pix=norm_pix),
        mask_ratio=mask_ratio,
    )
