"""BYOL: a slow copy of the encoder says what one view is to predict of the other.

Source: Grill et al., "Bootstrap Your Own Latent" (2020).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .backbones import backbone_for
from .base import BaseSelfSupervisor
from .measures import feature_std
from .momentum import MomentumEncoder, StepCounter, is_training
from .registry import MODELS
from .views import views_of


@MODELS.register
class BYOL(BaseSelfSupervisor):
    """The target network is a moving average of backbone and neck, ever slower.

    It follows in `loss` while the model is training with gradients: no trainer is needed.

    Args:
        backbone: from images to features.
        neck: from features to embeddings [N, D], such as `NonLinearNeck`.
        head: with `loss(embedding, target)`, such as `LatentPredictHead`.
        base_momentum: of the target network at first, which falls to 0 by a cosine; see
            `MomentumEncoder`.
        total_steps: of the training, for that; a trainer may tell it (`StepCounter.tell`).
        options: see `BaseSelfSupervisor`.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | nn.Module,
        neck: dict[str, Any] | nn.Module,
        head: dict[str, Any] | nn.Module,
        base_momentum: float = 0.004,
        total_steps: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(backbone=backbone, neck=neck, head=head, **options)
        self.target_net = MomentumEncoder(
            self.backbone, self.neck, momentum=base_momentum, schedule="cosine"
        )
        self.steps = StepCounter(total_steps)

    def loss(self, inputs: list[Tensor], data_samples: Any = None) -> dict[str, Tensor]:
        """The BYOL loss of two views; see `SimCLR.loss`."""
        views = self.normalized(views_of(inputs, 2))
        if is_training(self) and self.steps.begin():
            self.target_net.follow(self.backbone, self.neck, steps=self.steps)
        z0, z1 = (self.neck(self.backbone(x)) for x in views)
        target0, target1 = (self.target_net(x) for x in views)
        return {
            "loss": 2.0 * (self.head.loss(z0, target1) + self.head.loss(z1, target0)),
            "feature_std": feature_std(z0),
        }


def byol_config(
    backbone: str,
    image_size: int,
    patch_size: int | None = None,
    base_momentum: float = 0.004,
    hidden_dim: int = 4096,
    out_dim: int = 256,
    backbone_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of a BYOL over a model of timm.

    Args:
        backbone: a model of timm.
        image_size, patch_size: in pixels; patch_size None for the backbone's own, if it has any.
        base_momentum: see `BYOL`.
        hidden_dim, out_dim: of projector and predictor.
        backbone_options: of `timm.create_model`.
    """
    model = backbone_for(backbone, image_size, patch_size, **(backbone_options or {}))
    layers = dict(
        type="NonLinearNeck",
        hid_channels=hidden_dim,
        out_channels=out_dim,
        with_bias=True,
        with_last_bn=False,
    )
    return dict(
        type="BYOL",
        backbone=model,
        neck=dict(in_channels=model.num_features, **layers),
        head=dict(
            type="LatentPredictHead",
            # Twice 1 - cosine is the squared distance of unit vectors, the paper's loss.
            loss=dict(type="CosineSimilarityLoss", shift_factor=1.0),
            predictor=dict(in_channels=out_dim, **layers),
        ),
        base_momentum=base_momentum,
    )
