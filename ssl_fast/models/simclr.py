"""SimCLR: two views of an image find each other among those of all others.

Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backbones import backbone_for
from .base import BaseSelfSupervisor
from .measures import feature_std
from .registry import MODELS
from .views import views_of


@MODELS.register
class SimCLR(BaseSelfSupervisor):
    """Both views go through backbone and neck in one batch, as in the paper.

    Args:
        backbone: from images to features.
        neck: from features to embeddings [N, D], such as `NonLinearNeck`.
        head: with a `temperature`, such as `ContrastiveHead`.
        target_generator, pretrained, data_preprocessor, init_cfg: see `BaseSelfSupervisor`.
    """

    def loss(self, inputs: list[Tensor], data_samples: Any = None) -> dict[str, Tensor]:
        """The SimCLR loss of a batch.

        Args:
            inputs: two views [N, C, H, W], uint8 or normalised floats.
            data_samples: not used.

        Returns:
            {"loss": scalar, "feature_std": scalar}; see `feature_std`.
        """
        views = self.normalized(views_of(inputs, 2))
        z = self.neck(self.backbone(torch.cat(views)))
        z0, z1 = z.chunk(2)
        return {
            "loss": self.similarity_loss(z0, z1, self.head.temperature),
            "feature_std": feature_std(z0),
        }


def simclr_config(
    backbone: str,
    image_size: int,
    patch_size: int | None = None,
    temperature: float = 0.1,
    hidden_dim: int | None = None,
    out_dim: int = 128,
    backbone_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of a SimCLR over a model of timm.

    Args:
        backbone: a model of timm.
        image_size, patch_size: in pixels; patch_size None for the backbone's own, if it has any.
        temperature: see `ContrastiveHead`.
        hidden_dim, out_dim: of the projector; hidden_dim None for the features' own.
        backbone_options: of `timm.create_model`.
    """
    model = backbone_for(backbone, image_size, patch_size, **(backbone_options or {}))
    return dict(
        type="SimCLR",
        backbone=model,
        neck=dict(
            type="NonLinearNeck",
            in_channels=model.num_features,
            hid_channels=hidden_dim or model.num_features,
            out_channels=out_dim,
        ),
        head=dict(type="ContrastiveHead", temperature=temperature),
    )
