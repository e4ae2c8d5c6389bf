"""The methods whose steps are measured, and how large they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...models import MODELS
from ...models.barlowtwins import barlowtwins_config
from ...models.base import BaseSelfSupervisor
from ...models.mae import mae_config
from ...models.maskfeat import maskfeat_config
from ...models.mocov3 import mocov3_config
from ...models.simclr import simclr_config
from ...models.simmim import simmim_config

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Size:
    """How large a model and its batch are.

    Attributes:
        words: the model and its images, as the table shows them.
        backbone: as timm names it.
        image: side in pixels.
        batch: images; of two views each where the method has views.
        backbone_options: of `timm.create_model`.
        options: of the method's config.
    """

    words: str
    backbone: str
    image: int
    batch: int
    backbone_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        config: as in `ssl_fast.training.methods`.
        views: whether it compares two views of each image.
        cpu, cuda: the sizes that are measured; small: one that only tries the harness.
    """

    config: Callable[..., dict[str, Any]]
    views: bool
    cpu: Size
    cuda: Size
    small: Size

    def size(self, device: str, small: bool) -> Size:
        if small:
            return self.small
        return self.cuda if device == "cuda" else self.cpu


VIT_S, VIT_B = "vit_small_patch16_224", "vit_base_patch16_224"
SWIN_T, SWIN_B = "swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224"
SHORT = {"depth": 4}
TOY_VIT = {"depth": 1, "embed_dim": 32, "num_heads": 2}
# As SimMIM's: windows of 6 at 192 pixels. timm drops paths of a Swin if nobody says otherwise.
WINDOW_6 = {"window_size": 6, "drop_path_rate": 0.0}
TOY_SWIN = {
    "depths": (1, 1, 1, 1),
    "embed_dim": 16,
    "num_heads": (1, 2, 2, 2),
    "window_size": 2,
    "drop_path_rate": 0.0,
}

METHODS = {
    "maskfeat": Method(
        maskfeat_config,
        views=False,
        cpu=Size("ViT-S of depth 4, 224 px", VIT_S, 224, 8, SHORT),
        cuda=Size("ViT-B, 224 px", VIT_B, 224, 128),
        # mmpretrain's HOG makes 14 x 14 tokens of 16 pixels, whatever it is given.
        small=Size("toy ViT, 224 px", VIT_S, 224, 2, TOY_VIT),
    ),
    "mae": Method(
        mae_config,
        views=False,
        cpu=Size("ViT-S of depth 4, decoder of 2, 224 px", VIT_S, 224, 8, SHORT,
                 {"decoder_depth": 2}),
        cuda=Size("ViT-B, 224 px", VIT_B, 224, 256),
        small=Size("toy ViT, 64 px", VIT_S, 64, 2, TOY_VIT,
                   {"decoder_depth": 1, "decoder_dim": 32, "decoder_heads": 2}),
    ),
    "simmim": Method(
        simmim_config,
        views=False,
        cpu=Size("Swin-T of depths 2, 2, 2, 2, 192 px", SWIN_T, 192, 8,
                 {**WINDOW_6, "depths": (2, 2, 2, 2)}),
        cuda=Size("Swin-B, 192 px", SWIN_B, 192, 64, WINDOW_6),
        small=Size("toy Swin, 64 px", SWIN_T, 64, 2, TOY_SWIN),
    ),
    "simclr": Method(
        simclr_config,
        views=True,
        cpu=Size("ResNet-18, 64 px", "resnet18", 64, 64),
        cuda=Size("ResNet-50, 224 px", "resnet50", 224, 128),
        small=Size("ResNet-18, 32 px", "resnet18", 32, 4),
    ),
    "mocov3": Method(
        mocov3_config,
        views=True,
        cpu=Size("ViT-S of depth 2, 224 px", VIT_S, 224, 8, {"depth": 2}),
        cuda=Size("ViT-S, 224 px", VIT_S, 224, 128),
        small=Size("toy ViT, 64 px", VIT_S, 64, 4, TOY_VIT, {"hidden_dim": 64, "out_dim": 16}),
    ),
    "barlowtwins": Method(
        barlowtwins_config,
        views=True,
        cpu=Size("ResNet-18, 64 px, 2,048 dimensions", "resnet18", 64, 64, {}, {"out_dim": 2048}),
        cuda=Size("ResNet-50, 224 px, 8,192 dimensions", "resnet50", 224, 128),
        small=Size("ResNet-18, 32 px", "resnet18", 32, 4, {}, {"out_dim": 32}),
    ),
}  # fmt: skip


def build(method: Method, size: Size) -> BaseSelfSupervisor:
    """The method's model with random weights, in training mode; images stay uint8."""
    config = method.config(
        size.backbone, size.image, backbone_options=dict(size.backbone_options), **size.options
    )
    preprocessor = {"mean": MEAN, "std": STD, "keep_uint8": True}
    model = MODELS.build({**config, "data_preprocessor": preprocessor})
    # Norms begin at 1 or at 0, and what is multiplied by 0 would not be compared.
    for module in model.modules():
        norm = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm))
        if norm and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.train()
