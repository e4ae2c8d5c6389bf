"""SimSiam: each view's embedding is predicted from the other's, without negatives.

Source: Chen and He, "Exploring Simple Siamese Representation Learning" (2021).
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
class SimSiam(BaseSelfSupervisor):
    """The branch that is predicted gets no gradient, which is what keeps it from collapsing.

    Args:
        backbone: from images to features.
        neck: from features to embeddings [N, D], such as `NonLinearNeck`.
        head: with `loss(embedding, target)`, such as `LatentPredictHead`.
        target_generator, pretrained, data_preprocessor, init_cfg: see `BaseSelfSupervisor`.
    """

    def loss(self, inputs: list[Tensor], data_samples: Any = None) -> dict[str, Tensor]:
        """The SimSiam loss of two views; see `SimCLR.loss`."""
        z0, z1 = (self.neck(self.backbone(x)) for x in self.normalized(views_of(inputs, 2)))
        return {
            "loss": 0.5 * (self.head.loss(z0, z1) + self.head.loss(z1, z0)),
            "feature_std": feature_std(z0),
        }


def simsiam_config(
    backbone: str,
    image_size: int,
    patch_size: int | None = None,
    out_dim: int = 2048,
    predictor_dim: int = 512,
    backbone_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of a SimSiam over a model of timm.

    Args:
        backbone: a model of timm.
        image_size, patch_size: in pixels; patch_size None for the backbone's own, if it has any.
        out_dim: of all three layers of the projector.
        predictor_dim: between the two layers of the predictor.
        backbone_options: of `timm.create_model`.
    """
    model = backbone_for(backbone, image_size, patch_size, **(backbone_options or {}))
    return dict(
        type="SimSiam",
        backbone=model,
        neck=dict(
            type="NonLinearNeck",
            in_channels=model.num_features,
            hid_channels=out_dim,
            out_channels=out_dim,
            num_layers=3,
            with_last_bn_affine=False,
        ),
        head=dict(
            type="LatentPredictHead",
            loss=dict(type="CosineSimilarityLoss"),
            predictor=dict(
                type="NonLinearNeck",
                in_channels=out_dim,
                hid_channels=predictor_dim,
                out_channels=out_dim,
                with_last_bn=False,
                with_last_bias=True,
            ),
        ),
    )
