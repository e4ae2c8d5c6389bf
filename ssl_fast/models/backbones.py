"""Backbones: timm's models, with the depth of each parameter and with masked input."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from .._compat import import_timm
from .registry import MODELS, nearest

# A block's name begins with its stage (if there are several) and its number, as timm names them:
# ViT `blocks.3`, Swin `layers.1.blocks.0`, ConvNeXt `stages.1.blocks.0`, ResNet `layer2.0`.
_BLOCK = re.compile(r"(?:blocks|(?:layers|stages)\.(\d+)\.blocks|layer(\d+))\.(\d+)\.")
_DOWNSAMPLE = re.compile(r"(?:layers|stages)\.(\d+)\.downsample\.")
_STEM_NAMES = ("cls_token", "pos_embed")
_STEM_PREFIXES = ("patch_embed", "stem.", "conv1.", "bn1.")


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
        options: of `timm.create_model`; the classifier is left out.

    Attributes:
        model: timm's model.
        num_features: channels of its features.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        self.name = name
        self.options = options
        self.model = timm_model(name, **options)
        self.num_features = int(self.model.num_features)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] to features: [N, tokens, D] or a map, as the model has them."""
        return self.model.forward_features(images)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Depth of the parameter `param_name`, which begins with `prefix`; see `layer_depth`."""
        return layer_depth(self.model, param_name.removeprefix(prefix).removeprefix("model."))


@MODELS.register
class MaskedViT(TimmBackbone):
    """A vision transformer of timm whose input can be masked (BEiT, MaskFeat, SimMIM).

    The embeddings of masked patches are replaced by one learnt token, before positions are added;
    class token, register tokens and positions are the model's own.

    Args:
        name: of a ViT in timm, such as "vit_small_patch16_224".
        image_size, patch_size: side in pixels; None for the model's own.
        options: of `timm.create_model`, such as `depth` or `drop_path_rate`.

    Attributes:
        grid: rows and columns of patches.
        patch_size: side of a patch in pixels.
        num_prefix_tokens: tokens before those of the patches (class token, registers).

    Raises:
        ValueError: if the model is not one that turns an image into one sequence of tokens.
    """

    def __init__(
        self,
        name: str,
        image_size: int | None = None,
        patch_size: int | None = None,
        **options: Any,
    ) -> None:
        sizes = {"img_size": image_size, "patch_size": patch_size}
        options = {**{key: size for key, size in sizes.items() if size is not None}, **options}
        super().__init__(name, **options)
        embed: Any = getattr(self.model, "patch_embed", None)
        if not hasattr(self.model, "num_prefix_tokens") or not hasattr(embed, "grid_size"):
            raise ValueError(
                f"{name!r} is no vision transformer with one sequence of tokens; take one of the "
                f"vit_*, deit*, beit* or eva* models of timm"
            )
        self.grid: tuple[int, int] = tuple(embed.grid_size)
        self.patch_size = int(embed.patch_size[0])
        if any(side % self.patch_size for side in embed.img_size):
            raise ValueError(
                f"image_size is {image_size}; expected a multiple of patch_size ({self.patch_size})"
            )
        self.num_prefix_tokens = int(self.model.num_prefix_tokens)
        self.mask_token = nn.Parameter(torch.zeros(self.model.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self._mask: Tensor | None = None
        # After the patch embedding and before positions: the same place in every ViT of timm.
        embed.register_forward_hook(self._replace_masked)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens of images, those of masked patches made from the mask token.

        Args:
            images: [N, C, H, W], normalised.
            mask: [N, h, w] or [N, L], nonzero where masked; None or False masks nothing.

        Returns:
            [N, num_prefix_tokens + L, D].

        Raises:
            ValueError: for a mask of another shape.
        """
        if mask is None or mask is False:
            return super().forward(images)
        rows, columns = self.grid
        if tuple(mask.shape[1:]) not in ((rows, columns), (rows * columns,)):
            expected = f"(N, {rows}, {columns}) or (N, {rows * columns})"
            raise ValueError(f"mask has shape {tuple(mask.shape)}; expected {expected}")
        self._mask = mask.reshape(len(mask), rows * columns).bool()
        try:
            return super().forward(images)
        finally:
            self._mask = None

    def _replace_masked(self, module: nn.Module, args: Any, embedded: Tensor) -> Tensor:
        """[N, L, D] (or [N, h, w, D]) with the mask token where the mask is set."""
        if self._mask is None:
            return embedded
        mask = self._mask.view(*embedded.shape[:-1], 1)
        return torch.where(mask, self.mask_token.to(embedded.dtype), embedded)

    def pooled(self, images: Tensor) -> Tensor:
        """Mean over the patches' tokens, [N, D]: what a probe of the features looks at."""
        return self(images)[:, self.num_prefix_tokens :].mean(dim=1)
