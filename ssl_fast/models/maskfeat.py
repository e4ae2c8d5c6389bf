"""MaskFeat: predict the HOG features of masked patches.

Source: Wei et al., "Masked Feature Prediction for Self-Supervised Visual Pre-Training" (2022).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .base import BaseSelfSupervisor
from .masked import MaskedViT
from .registry import MODELS

# The paper's numbers on a grid of 14 x 14: 40 % masked, blocks of at least 15 patches.
PAPER_GRID = 14 * 14
PAPER_MIN_BLOCK = 15


@MODELS.register
class MaskFeat(BaseSelfSupervisor):
    """Blockwise masks, HOG of the masked patches as targets, a linear layer as the predictor.

    Targets are computed for masked patches alone and from the batch as it comes: uint8 where the
    preprocessor keeps it (`keep_uint8`). Neck, head and loss see masked tokens alone.

    Args:
        backbone: takes (images, mask) and returns tokens, such as `MaskedViT`.
        neck: from features to HOG, such as `LinearNeck`.
        head: with `loss(pred, target, weights)`, such as `MIMHead`.
        target_generator: such as `HOGGenerator`, called with `ids`.
        mask_ratio: share of the patches masked, in [0, 1]; int(ratio * L) of L are.
        min_block: least patches of a block; None for the paper's share of the grid.
        pretrained, data_preprocessor, init_cfg: see `BaseSelfSupervisor`.

    Raises:
        ValueError: for a mask_ratio out of range.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | nn.Module,
        neck: dict[str, Any] | nn.Module,
        head: dict[str, Any] | nn.Module,
        target_generator: dict[str, Any] | nn.Module,
        mask_ratio: float = 0.4,
        min_block: int | None = None,
        pretrained: str | None = None,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            target_generator=target_generator,
            pretrained=pretrained,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        if not 0 <= mask_ratio <= 1:
            raise ValueError(f"mask_ratio is {mask_ratio}; accepted are 0 to 1")
        self.mask_ratio = mask_ratio
        self.min_block = min_block

    def extract_feat(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens of images [N, C, H, W]; see `MaskedViT.forward` for mask and result."""
        return self.backbone(self.normalized(inputs), mask)

    def num_masked(self, grid: tuple[int, int]) -> int:
        """Patches masked in an image of this grid of patches."""
        return int(self.mask_ratio * grid[0] * grid[1])

    def sample_mask(
        self,
        num_samples: int,
        grid: tuple[int, int],
        num_masked: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Blockwise masks as the paper's; see `BaseSelfSupervisor.sample_mask`."""
        patches = grid[0] * grid[1]
        num_masked = self.num_masked(grid) if num_masked is None else num_masked
        if self.min_block is None:
            fair_share = max(1, round(patches * PAPER_MIN_BLOCK / PAPER_GRID))
            options.setdefault("min_block", min(fair_share, max(1, num_masked)))
        else:
            options.setdefault("min_block", self.min_block)
        return super().sample_mask(num_samples, grid, num_masked, **options)

    def loss(self, inputs: Tensor, data_samples: Any = None) -> dict[str, Tensor]:
        """The MaskFeat loss of a batch.

        Args:
            inputs: [N, C, H, W], uint8 or normalised floats.
            data_samples: see `BaseSelfSupervisor`; with masks, these are used, else they are
                sampled.

        Returns:
            {"loss": scalar}.
        """
        mask, masked, weights = self._masks(inputs, data_samples)
        target = self.build_target(inputs, ids=masked)
        tokens = self.extract_feat(inputs, mask)[:, -mask[0].numel() :]
        features = torch.take_along_dim(tokens, masked[..., None], dim=1)
        return {"loss": self.head.loss(self.neck(features), target, weights)}

    def _masks(self, inputs: Tensor, data_samples: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """(mask [N, h, w], ids of masked patches [N, K], weights [N, K] or None if all are 1)."""
        mask = self.masks_of(data_samples)
        if mask is None:
            grid = self.backbone.grid
            mask = self.sample_mask(
                len(inputs), grid, device=inputs.device, **self.randomness_of(data_samples)
            )
            count = self.num_masked(grid)
            return mask, masked_ids(mask, count), None
        # Masks from elsewhere may differ in their counts: rows are filled up with weight 0.
        counts = mask.flatten(1).bool().sum(dim=1)
        masked = masked_ids(mask, int(counts.max()) if len(counts) else 0)
        places = torch.arange(masked.shape[1], device=masked.device)
        return mask, masked, places < counts[:, None]

    @torch.no_grad()
    def visualize(self, images: Tensor, data_samples: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """What the model is shown, asked for and answers.

        Args:
            images: [N, C, H, W] uint8.
            data_samples: as for `loss`.

        Returns:
            mask [N, h, w] bool, HOG targets of all patches [N, L, F], and predictions [N, L, F],
            which are the targets where nothing is masked.
        """
        mask, _, _ = self._masks(images, data_samples)
        target = self.build_target(images)
        tokens = self.extract_feat(images, mask)[:, -mask[0].numel() :]
        predicted = self.neck(tokens).to(target.dtype)
        return mask, target, torch.where(mask.flatten(1)[..., None].bool(), predicted, target)


def masked_ids(mask: Tensor, count: int) -> Tensor:
    """Ids of the first `count` masked patches of each sample, ascending.

    Args:
        mask: [N, ...], nonzero where masked; a sample with fewer is filled up with visible ones.
        count: K.

    Returns:
        [N, K] int64.
    """
    visible = ~mask.flatten(1).bool()
    return visible.to(torch.uint8).argsort(dim=1, stable=True)[:, :count]


def maskfeat_config(
    backbone: str,
    image_size: int,
    patch_size: int | None = None,
    mask_ratio: float = 0.4,
    nbins: int = 9,
    backbone_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of a MaskFeat model over a ViT of timm.

    HOG cells are half a patch a side and the Gaussian window is one patch, as in the paper (8 and
    16 pixels for patches of 16).

    Args:
        backbone: a ViT of timm.
        image_size, patch_size: in pixels; patch_size None for the backbone's own.
        mask_ratio, nbins: see `MaskFeat` and `HOGGenerator`.
        backbone_options: of `timm.create_model`.
    """
    vit = MaskedViT(backbone, image_size, patch_size, **(backbone_options or {}))
    pool = vit.patch_size // 2 if vit.patch_size % 2 == 0 else vit.patch_size
    cells = vit.patch_size // pool
    return dict(
        type="MaskFeat",
        backbone=vit,
        neck=dict(
            type="LinearNeck",
            in_channels=vit.num_features,
            out_channels=3 * nbins * cells * cells,
        ),
        head=dict(type="MIMHead", loss=dict(type="PixelReconstructionLoss", criterion="L2")),
        target_generator=dict(
            type="HOGGenerator",
            nbins=nbins,
            pool=pool,
            gaussian_window=vit.patch_size,
            patch_size=vit.patch_size,
        ),
        mask_ratio=mask_ratio,
    )
