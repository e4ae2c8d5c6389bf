"""The methods that a run can train: how each is built, and the recipe of its paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.barlowtwins import barlowtwins_config
from ..models.byol import byol_config
from ..models.densecl import densecl_config
from ..models.mae import MAE, mae_config
from ..models.maskfeat import MaskFeat, maskfeat_config
from ..models.moco import moco_config
from ..models.mocov3 import mocov3_config
from ..models.simclr import simclr_config
from ..models.simmim import SimMIM, simmim_config
from ..models.simsiam import simsiam_config
from ..models.swav import swav_config
from .panels import hog_picture, masked_image, tile_scale
from .views import BYOL, MOCO_V2, SIMCLR, SIMSIAM, SWAV, View

Columns = list[tuple[str, Tensor]]
DIMMED = 0.35  # brightness of what was visible, beside what was predicted


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        config: (backbone, image_size, patch_size, **options) -> the model's config dict.
        base_lr: learning rate for 256 images.
        weight_decay: of matrices.
        optimizer: "adamw", "sgd" or "lars"; see `optim.make_optimizer`.
        betas: of AdamW.
        clip_grad: largest norm of the gradient; 0 for no limit.
        backbone: what the paper pretrains first, as timm names it.
        constant_lr: beginnings of the names of parameters whose learning rate stays.
        sync_batchnorm: whether batch norms take the statistics of all GPUs.
        crop_scale: least and largest area of a random crop, as shares of the image; views have
            their own.
        panel: (model, images [N, 3, H, W] uint8, data_samples) -> titles and pictures; None for
            the input and its views.
        views: what the model sees of each image, its `inputs` then being a list with a batch
            [N, 3, S, S] for each; empty for one view, which is one batch.
    """

    config: Callable[..., dict[str, Any]]
    base_lr: float
    weight_decay: float
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    clip_grad: float = 0.0
    backbone: str = "vit_small_patch16_224"
    constant_lr: tuple[str, ...] = ()
    sync_batchnorm: bool = True
    crop_scale: tuple[float, float] = (0.5, 1.0)
    panel: Callable[[Any, Tensor, dict[str, Tensor]], Columns] | None = None
    views: tuple[View, ...] = ()


def _maskfeat_panel(model: MaskFeat, images: Tensor, samples: dict[str, Tensor]) -> Columns:
    mask, target, predicted = model.visualize(images, samples)
    height, width = images.shape[-2:]
    scale = tile_scale(height, width)

    def draw(tokens: Tensor) -> Tensor:
        return hog_picture(tokens, model.target_generator, size=(height, width), scale=scale)

    prediction = draw(predicted)
    visible = masked_image(torch.zeros_like(prediction)[:, None], mask.cpu())[:, 0] == 0
    dimmed = (prediction * DIMMED).to(torch.uint8)
    return [
        ("input", images.permute(0, 2, 3, 1)),
        ("masked input", masked_image(images, mask).permute(0, 2, 3, 1)),
        ("HOG target", draw(target)),
        ("prediction", torch.where(visible, dimmed, prediction)),
    ]


def _reconstruction_panel(
    model: MAE | SimMIM, images: Tensor, samples: dict[str, Tensor]
) -> Columns:
    mask, reconstruction = model.visualize(images, samples)
    return [
        ("input", images.permute(0, 2, 3, 1)),
        ("masked input", masked_image(images, mask).permute(0, 2, 3, 1)),
        ("reconstruction", reconstruction.permute(0, 2, 3, 1)),
    ]


METHODS = {
    # Wei et al. 2022, table 12, for images.
    "maskfeat": Method(
        config=maskfeat_config,
        base_lr=2e-4,
        weight_decay=0.05,
        betas=(0.9, 0.999),
        clip_grad=0.02,
        crop_scale=(0.5, 1.0),
        panel=_maskfeat_panel,
    ),
    # He et al. 2022, table 8.
    "mae": Method(
        config=mae_config,
        base_lr=1.5e-4,
        weight_decay=0.05,
        betas=(0.9, 0.95),
        clip_grad=0.0,
        crop_scale=(0.2, 1.0),
        panel=_reconstruction_panel,
    ),
    # Xie et al. 2022, appendix: 8e-4 for 2,048 images.
    "simmim": Method(
        config=simmim_config,
        base_lr=1e-4,
        weight_decay=0.05,
        betas=(0.9, 0.999),
        clip_grad=5.0,
        crop_scale=(0.67, 1.0),
        panel=_reconstruction_panel,
    ),
    # Chen et al. 2020, appendix B.
    "simclr": Method(
        config=simclr_config,
        base_lr=0.3,
        weight_decay=1e-6,
        optimizer="lars",
        backbone="resnet50",
        views=SIMCLR,
    ),
    # Chen et al. 2020 (MoCo v2), after He et al. 2020.
    "moco": Method(
        config=moco_config,
        base_lr=0.03,
        weight_decay=1e-4,
        optimizer="sgd",
        backbone="resnet50",
        sync_batchnorm=False,  # images are shuffled between processes instead
        views=MOCO_V2,
    ),
    # Chen et al. 2021 (MoCo v3), section 6, for ViTs.
    "mocov3": Method(
        config=mocov3_config,
        base_lr=1.5e-4,
        weight_decay=0.1,
        views=BYOL,
    ),
    # Wang et al. 2021, section 4.1.
    "densecl": Method(
        config=densecl_config,
        base_lr=0.03,
        weight_decay=1e-4,
        optimizer="sgd",
        backbone="resnet50",
        sync_batchnorm=False,
        views=MOCO_V2,
    ),
    # Grill et al. 2020, section 3.3.
    "byol": Method(
        config=byol_config,
        base_lr=0.2,
        weight_decay=1.5e-6,
        optimizer="lars",
        backbone="resnet50",
        views=BYOL,
    ),
    # Chen, He 2021 (SimSiam), section 3 and appendix B.
    "simsiam": Method(
        config=simsiam_config,
        base_lr=0.05,
        weight_decay=1e-4,
        optimizer="sgd",
        backbone="resnet50",
        constant_lr=("head.predictor.",),
        views=SIMSIAM,
    ),
    # Zbontar et al. 2021, section 2.2.
    "barlowtwins": Method(
        config=barlowtwins_config,
        base_lr=0.2,
        weight_decay=1.5e-6,
        optimizer="lars",
        backbone="resnet50",
        views=BYOL,
    ),
    # Caron et al. 2020 (SwAV), appendix A: 4.8 for 4,096 images.
    "swav": Method(
        config=swav_config,
        base_lr=0.3,
        weight_decay=1e-6,
        optimizer="lars",
        backbone="resnet50",
        views=SWAV,
    ),
}
