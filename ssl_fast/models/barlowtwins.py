"""Barlow Twins: the embeddings of two views agree, and their dimensions are independent.

Source: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction" (2021).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .backbones import backbone_for
from .base import BaseSelfSupervisor
from .measures import feature_std
from .registry import MODELS
from .views import views_of


@MODELS.register
class BarlowTwins(BaseSelfSupervisor):
    """Neither negatives nor another encoder: the loss itself punishes a collapse.

    Args:
        backbone: from images to features.
        neck: from features to embeddings [N, D], such as `NonLinearNeck`.
        head: with `loss(z0, z1)`, such as `LatentCrossCorrelationHead`.
        target_generator, pretrained, data_preprocessor, init_cfg: see `BaseSelfSupervisor`.
    """

    def loss(self, inputs: list[Tensor], data_samples: Any = None) -> dict[str, Tensor]:
        """The Barlow Twins loss of two views; see `SimCLR.loss`."""
        z0, z1 = (self.neck(self.backbone(x)) for x in self.normalized(views_of(inputs, 2)))
        return {"loss": self.head.loss(z0, z1), "feature_std": feature_std(z0)}


def barlowtwins_config(
    backbone: str,
    image_size: int,
    patch_size: int | None = None,
    lambd: float = 0.0051,
    out_dim: int = 8192,
    backbone_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of a Barlow Twins over a model of timm.

    Args:
        backbone: a model of timm.
        image_size, patch_size: in pixels; patch_size None for the backbone's own, if it has any.
        lambd: see `LatentCrossCorrelationHead`.
        out_dim: of all three layers of the projector.
        backbone_options: of `timm.create_model`.
    """
    model = backbone_for(backbone, image_size, patch_size, **(backbone_options or {}))
    return dict(
        type="BarlowTwins",
        backbone=model,
        neck=dict(
            type="NonLinearNeck",
            in_channels=model.num_features,
            hid_channels=out_dim,
            out_channels=out_dim,
            num_layers=3,
            with_last_bn=False,
        ),
        head=dict(type="LatentCrossCorrelationHead", lambd=lambd),
    )
