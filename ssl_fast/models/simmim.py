"""SimMIM: predict the raw pixels of masked patches with a linear layer.

Source: Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling" (2022).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from .base import BaseSelfSupervisor
from .mae import paste
from .masked import MaskedBackbone, MaskedSwin, MaskedViT
from .registry import MODELS


@MODELS.register
class SimMIMLinearDecoder(nn.Module):
    """One linear layer from a map of features to pixels.

    Args:
        in_channels: of the features.
        encoder_stride: side of what one feature stands for, in pixels.
        out_channels: of the images.
    """

    def __init__(self, in_channels: int, encoder_stride: int, out_channels: int = 3) -> None:
        super().__init__()
        self.decoder = nn.Sequential(
            nn.Conv2d(in_channels, encoder_stride**2 * out_channels, kernel_size=1),
            nn.PixelShuffle(encoder_stride),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H / stride, W / stride] to [N, out_channels, H, W]."""
        return self.decoder(x)


@MODELS.register
class SimMIMHead(nn.Module):
    """The absolute difference of predicted pixels from those of the image, where masked.

    Args:
        patch_size: side of the patches that a mask is made of, in pixels.
    """

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size

    def loss(
        self,
        pred: Tensor,
        target: Tensor,
        mask: Tensor,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> Tensor:
        """See `ssl_fast.ops.masked_patch_loss`; pred and target are images [N, C, H, W]."""
        return ops.masked_patch_loss(
            pred, target, mask, self.patch_size, norm_pix=False, p=1, mean=mean, std=std
        )


@MODELS.register
class SimMIM(BaseSelfSupervisor):
    """Random squares of the image are masked by a token; a linear layer predicts their pixels.

    Args:
        backbone: called with (images, mask), such as `MaskedSwin` or `MaskedViT`.
        neck: from a map of features to an image, such as `SimMIMLinearDecoder`.
        head: with `loss(pred, images, mask, mean, std)`, such as `SimMIMHead`.
        mask_ratio: share of the squares masked, in [0, 1]; ceil(ratio * n) of n are.
        mask_patch_size: side of a square in pixels, a multiple of the backbone's patch_size.
        target_generator, pretrained, data_preprocessor, init_cfg: see `BaseSelfSupervisor`.

    Raises:
        ValueError: for a mask_ratio out of range, or squares that do not fit the patches.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | nn.Module,
        neck: dict[str, Any] | nn.Module,
        head: dict[str, Any] | nn.Module,
        mask_ratio: float = 0.6,
        mask_patch_size: int = 32,
        **options: Any,
    ) -> None:
        super().__init__(backbone=backbone, neck=neck, head=head, **options)
        if not 0 <= mask_ratio <= 1:
            raise ValueError(f"mask_ratio is {mask_ratio}; accepted are 0 to 1")
        patch = self.backbone.patch_size
        if mask_patch_size % patch or any(
            side * patch % mask_patch_size for side in self.backbone.grid
        ):
            size = " x ".join(str(side * patch) for side in self.backbone.grid)
            raise ValueError(
                f"mask_patch_size is {mask_patch_size}; expected a multiple of the backbone's "
                f"patch_size ({patch}) that divides the image ({size})"
            )
        self.mask_ratio = mask_ratio
        self.mask_patch_size = mask_patch_size

    def extract_feat(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of images [N, C, H, W]; see `MaskedBackbone.forward`."""
        return self.backbone(self.normalized(inputs), mask)

    def sample_mask(
        self,
        num_samples: int,
        grid: tuple[int, int],
        num_masked: int | None = None,
        *,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> Tensor:
        """Squares of mask_patch_size pixels: [N, h, w] bool; see `ssl_fast.ops.simmim_mask`.

        Args:
            num_samples, grid: N, and rows and columns of patches; the grid is square.
            num_masked: squares masked; None for the share mask_ratio.
            device: of the result; None for the model's.
            options: seed, sample_ids.
        """
        patch = self.backbone.patch_size
        squares = (grid[0] * patch // self.mask_patch_size) ** 2
        ratio = self.mask_ratio
        if num_masked is not None:  # half a square less, so that no rounding masks one too many
            ratio = max(0.0, num_masked - 0.5) / squares
        device = next(self.parameters()).device if device is None else device
        return ops.simmim_mask(
            num_samples,
            grid[0] * patch,
            self.mask_patch_size,
            patch,
            ratio,
            device=device,
            **options,
        )

    def loss(self, inputs: Tensor, data_samples: Any = None) -> dict[str, Tensor]:
        """The SimMIM loss of a batch [N, C, H, W], uint8 or normalised floats: {"loss": scalar}.

        Masks that come with the batch are used; see `BaseSelfSupervisor`.
        """
        pred, mask = self._predict(inputs, data_samples)
        return {
            "loss": self.head.loss(pred, inputs, mask, *self.data_preprocessor.statistics(inputs))
        }

    def _predict(self, inputs: Tensor, data_samples: Any) -> tuple[Tensor, Tensor]:
        """Predicted pixels [N, C, H, W], normalised, and the mask [N, h, w]."""
        mask = self.masks_of(data_samples)
        if mask is None:
            mask = self.sample_mask(
                len(inputs),
                self.backbone.grid,
                device=inputs.device,
                **self.randomness_of(data_samples),
            )
        tokens = self.backbone.patches(self.extract_feat(inputs, mask))
        size = [side // self.backbone.stride for side in inputs.shape[-2:]]
        return self.neck(tokens.transpose(1, 2).unflatten(2, size)), mask

    @torch.no_grad()
    def visualize(self, images: Tensor, data_samples: Any = None) -> tuple[Tensor, Tensor]:
        """Masks [N, h, w] bool and reconstructions uint8 [N, C, H, W] of uint8 images."""
        pred, mask = self._predict(images, data_samples)
        mask = mask.bool()
        return mask, paste(pred.float(), images, mask, *self.data_preprocessor.statistics(images))


def simmim_config(
    backbone: str,
    image_size: int,
    patch_size: int | None = None,
    mask_ratio: float = 0.6,
    mask_patch_size: int = 32,
    backbone_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of a SimMIM over a Swin or ViT of timm.

    Args:
        backbone: a Swin ("swin...") or ViT of timm.
        image_size, patch_size: in pixels; patch_size None for the backbone's own.
        mask_ratio, mask_patch_size: see `SimMIM`.
        backbone_options: of `timm.create_model`.
    """
    kind: type[MaskedBackbone] = MaskedSwin if backbone.startswith("swin") else MaskedViT
    model = kind(backbone, image_size, patch_size, **(backbone_options or {}))
    return dict(
        type="SimMIM",
        backbone=model,
        neck=dict(
            type="SimMIMLinearDecoder",
            in_channels=model.num_features,
            encoder_stride=model.stride,
        ),
        head=dict(type="SimMIMHead", patch_size=model.patch_size),
        mask_ratio=mask_ratio,
        mask_patch_size=mask_patch_size,
    )
