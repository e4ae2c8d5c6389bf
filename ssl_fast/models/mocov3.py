"""MoCo v3: contrast within the batch, with a predictor and a momentum encoder, for ViTs.

Source: Chen et al., "An Empirical Study of Training Self-Supervised Vision Transformers" (2021).
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from .._compat import import_timm
from .backbones import TimmBackbone, backbone_for
from .base import BaseSelfSupervisor
from .heads import ContrastiveHead
from .masked import PatchBackbone
from .measures import feature_std
from .moco import unit
from .momentum import MomentumEncoder, StepCounter, is_training
from .positions import fix_positions
from .registry import MODELS
from .views import views_of


@MODELS.register
class MoCoV3ViT(PatchBackbone):
    """A vision transformer with fixed positions and a patch embedding that is not trained.

    Args:
        name, image_size, patch_size, options: see `PatchBackbone`.
        stop_grad_conv1: whether the patch embedding stays as it was drawn, which keeps training
            stable.
    """

    kind = "plain vision transformer with a class token"
    examples = "vit_* or deit_* models"

    def __init__(
        self,
        name: str,
        image_size: int | None = None,
        patch_size: int | None = None,
        stop_grad_conv1: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(name, image_size, patch_size, **{"weight_init": "moco", **options})
        fix_positions(self.model, self.grid)
        projection = self.model.patch_embed.proj
        bound = math.sqrt(6 / (projection.weight[0].numel() + projection.weight.shape[0]))
        nn.init.uniform_(projection.weight, -bound, bound)
        nn.init.zeros_(projection.bias)
        projection.requires_grad_(not stop_grad_conv1)

    def fits(self) -> bool:
        model = self.model
        plain = isinstance(model, import_timm().models.VisionTransformer)
        return plain and model.pos_embed is not None and model.cls_token is not None

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] to the features of the class token, [N, D]."""
        return self.pooled(images)

    def pooled(self, images: Tensor) -> Tensor:
        """As `forward`: what a probe of the features looks at."""
        return TimmBackbone.pooled(self, images)


@MODELS.register
class MoCoV3Head(ContrastiveHead):
    """A predictor and a temperature.

    Args:
        predictor: a config dict or a module from embeddings to embeddings.
        temperature: divides the similarities.

    Raises:
        ValueError: for a temperature that is not positive.
    """

    def __init__(self, predictor: dict[str, Any] | nn.Module, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        self.predictor = MODELS.build(predictor)


@MODELS.register
class MoCoV3(BaseSelfSupervisor):
    """Each view's prediction finds the other's key among those of the batch of all processes.

    Args:
        backbone: from images to features, such as `MoCoV3ViT`.
        neck: from features to embeddings [N, D], such as `NonLinearNeck`.
        head: with `predictor` and `temperature`, such as `MoCoV3Head`.
        base_momentum: of the momentum encoder at first, which falls to 0 by a cosine; see
            `MomentumEncoder`.
        total_steps: of the training, for that; a trainer may tell it (`StepCounter.tell`).
        options: see `BaseSelfSupervisor`.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | nn.Module,
        neck: dict[str, Any] | nn.Module,
        head: dict[str, Any] | nn.Module,
        base_momentum: float = 0.01,
        total_steps: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(backbone=backbone, neck=neck, head=head, **options)
        self.momentum_encoder = MomentumEncoder(
            self.backbone, self.neck, momentum=base_momentum, schedule="cosine"
        )
        self.steps = StepCounter(total_steps)

    def loss(self, inputs: list[Tensor], data_samples: Any = None) -> dict[str, Tensor]:
        """The MoCo v3 loss of two views; see `SimCLR.loss`."""
        views = self.normalized(views_of(inputs, 2))
        if is_training(self) and self.steps.begin():
            self.momentum_encoder.follow(self.backbone, self.neck, steps=self.steps)
        q0, q1 = (unit(self.head.predictor(self.neck(self.backbone(x)))) for x in views)
        k0, k1 = (unit(self.momentum_encoder(x)) for x in views)
        loss = self._contrast(q0, k1) + self._contrast(q1, k0)
        return {"loss": loss, "feature_std": feature_std(q0)}

    def _contrast(self, query: Tensor, key: Tensor) -> Tensor:
        """The loss of queries and keys [N, D], times 2 * temperature as in the paper."""
        temperature = self.head.temperature
        return 2 * temperature * self.similarity_loss(query, key, temperature, op="info_nce")


def mocov3_config(
    backbone: str,
    image_size: int,
    patch_size: int | None = None,
    temperature: float | None = None,
    base_momentum: float = 0.01,
    hidden_dim: int = 4096,
    out_dim: int = 256,
    backbone_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of a MoCo v3 over a ViT, or another model of timm.

    Args:
        backbone: a ViT of timm ("vit..." or "deit..."), or another model.
        image_size, patch_size: in pixels; patch_size None for the backbone's own, if it has any.
        temperature: see `MoCoV3Head`; None for 0.2 with a ViT and 1.0 with others.
        base_momentum: see `MoCoV3`.
        hidden_dim, out_dim: of projector and predictor.
        backbone_options: of `timm.create_model`.
    """
    options = backbone_options or {}
    transformer = backbone.startswith(("vit", "deit"))
    model = (
        MoCoV3ViT(backbone, image_size, patch_size, **options)
        if transformer
        else backbone_for(backbone, image_size, patch_size, **options)
    )
    layers = dict(
        type="NonLinearNeck",
        hid_channels=hidden_dim,
        out_channels=out_dim,
        with_last_bn_affine=False,
    )
    return dict(
        type="MoCoV3",
        backbone=model,
        neck=dict(in_channels=model.num_features, num_layers=3 if transformer else 2, **layers),
        head=dict(
            type="MoCoV3Head",
            predictor=dict(in_channels=out_dim, with_last_bn=transformer, **layers),
            temperature=temperature or (0.2 if transformer else 1.0),
        ),
        base_momentum=base_momentum,
    )
