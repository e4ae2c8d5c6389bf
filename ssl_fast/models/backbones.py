"""Backbones: timm's models, with the depth of each parameter."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from .._compat import import_timm
from .registry import MODELS, nearest

# A block's name begins with its stage (if there are several) and its number, as timm names them:
# ViT `blocks.3`, Swin `layers.1.blocks.0`, ConvNeXt `stages.1.blocks.0`, ResNet `layer2.0`.
_BLOCK = re.compile(r"(?:blocks|(?:layers|stages)\.(\d+)\.blocks|layer(\d+))\.(\d+)\.")
_DOWNSAMPLE = re.compile(r"(?:layers|stages)\.(\d+)\.downsample\.")
_STEM_NAMES = ("cls_token", "pos_embed")
_STEM_PREFIXES = ("patch_embed", "stem.", "conv1.", "bn1.")

OUT_TYPES = ("raw", "pooled", "featmap")


def timm_model(name: str, **options: Any) -> Any:
    """A model of timm without its classifier.

    Args:
        name: as timm knows it, such as "vit_small_patch16_224".
        options: of `timm.create_model`.

    Raises:
        ValueError: for a name or options that timm does not take; the nearest names are listed.
        ImportError: if timm is missing, with what to install.
    """
    timm = import_timm()
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    options = {"num_classes": 0, **options}
    try:
        return timm.create_model(name, **options)
    except (TypeError, AssertionError) as error:
        raise ValueError(f"timm cannot build {name!r} with {options}: {error}") from error


def layer_depth(model: nn.Module, name: str) -> tuple[int, int]:
    """Depth of a parameter, for learning rates that decay from layer to layer.

    The stem (patch embedding, class token, positions) has depth 0, the i-th block of all stages
    i + 1, what stands between two stages the depth of the block before it, all else (norms, mask
    token, heads) the last depth.

    Args:
        model: a ViT, Swin, ConvNeXt or ResNet of timm.
        name: the parameter's name in that model.

    Returns:
        (depth, number of depths): depth is 0 .. number - 1.

    Raises:
        NotImplementedError: for a model whose blocks are named otherwise.
    """
    sizes = _stage_sizes(model)
    if not sizes:
        raise NotImplementedError(
            f"get_layer_depth is not known for {type(model).__name__}; known are timm's ViT, Swin, "
            f"ConvNeXt and ResNet"
        )
    last = sum(sizes.values()) + 1
    before = {stage: sum(n for s, n in sizes.items() if s < stage) for stage in sizes}
    if name in _STEM_NAMES or name.startswith(_STEM_PREFIXES):
        return 0, last + 1
    if block := _BLOCK.match(name):
        return before[_stage(block)] + int(block[3]) + 1, last + 1
    if between := _DOWNSAMPLE.match(name):
        return before[int(between[1])], last + 1
    return last, last + 1


def _stage(block: re.Match[str]) -> int:
    return int(block[1] or block[2] or 0)


def _stage_sizes(model: nn.Module) -> dict[int, int]:
    """Number of blocks in each stage."""
    sizes: dict[int, int] = {}
    for name, _ in model.named_parameters():
        if block := _BLOCK.match(name):
            stage = _stage(block)
            sizes[stage] = max(sizes.get(stage, 0), int(block[3]) + 1)
    return sizes


@MODELS.register
class TimmBackbone(nn.Module):
    """Any timm model as a backbone: images to its last features.

    Args:
        name: of the model in timm.
        out_type: "raw" for features as the model has them, tokens [N, tokens, D] or a map;
            "pooled" for one vector an image, [N, D], pooled as the model does before its
            classifier; "featmap" for a map [N, D, h, w], of tokens those of the patches.
        options: of `timm.create_model`; the classifier is left out.

    Attributes:
        model: timm's model.
        num_features: channels of its features.
        patch_size: side of a patch in pixels; 1 for a model without patches.

    Raises:
        ValueError: for another out_type, and see `timm_model`.
    """

    def __init__(self, name: str, out_type: str = "raw", **options: Any) -> None:
        super().__init__()
        if out_type not in OUT_TYPES:
            accepted = ", ".join(map(repr, OUT_TYPES))
            raise ValueError(f"out_type is {out_type!r}; accepted are {accepted}")
        self.name = name
        self.out_type = out_type
        self.options = options
        self.model = timm_model(name, **options)
        self.num_features = int(self.model.num_features)
        embed: Any = getattr(self.model, "patch_embed", None)
        self.patch_size = int(embed.patch_size[0]) if hasattr(embed, "patch_size") else 1

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] to features; see out_type."""
        if self.out_type == "pooled":
            return self.pooled(images)
        features = self.model.forward_features(images)
        return features if self.out_type == "raw" else self._map(features)

    def pooled(self, images: Tensor) -> Tensor:
        """One vector an image, [N, D]: what a probe of the features looks at."""
        features = self.model.forward_features(images)
        return self.model.forward_head(features, pre_logits=True)

    def _map(self, features: Tensor) -> Tensor:
        """[N, D, h, w] of a map, or of tokens [N, P + h * w, D]."""
        if features.dim() == 4:
            channels_last = getattr(self.model, "output_fmt", None) == "NHWC"
            return features.permute(0, 3, 1, 2) if channels_last else features
        tokens = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
        return tokens.transpose(1, 2).unflatten(2, self.model.patch_embed.grid_size)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Depth of the parameter `param_name`, which begins with `prefix`; see `layer_depth`."""
        return layer_depth(self.model, param_name.removeprefix(prefix).removeprefix("model."))


def backbone_for(
    name: str,
    image_size: int,
    patch_size: int | None = None,
    out_type: str = "pooled",
    **options: Any,
) -> TimmBackbone:
    """A backbone for images of one size: of those that take any, such as ResNets, the plain model.

    Args:
        name: of the model in timm.
        image_size, patch_size: in pixels; patch_size None for the model's own.
        out_type, options: see `TimmBackbone`.

    Raises:
        ValueError: for a patch_size if the model has no patches, and see `TimmBackbone`.
    """
    cfg = import_timm().models.get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size:
        options = {"img_size": image_size, **options}
        if patch_size is not None:
            options = {"patch_size": patch_size, **options}
    elif patch_size is not None:
        raise ValueError(f"patch_size is {patch_size}, but {name!r} has no patches; leave it out")
    return TimmBackbone(name, out_type, **options)
