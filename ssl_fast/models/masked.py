"""Backbones of masked image modelling: patches hidden behind a token, or left out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from .._compat import import_timm
from .backbones import TimmBackbone
from .registry import MODELS


class PatchBackbone(TimmBackbone):
    """A model of timm that begins with a grid of patches.

    Args:
        name: of the model in timm.
        image_size, patch_size: side in pixels; None for the model's own.
        options: of `timm.create_model`, such as `depth` or `drop_path_rate`.

    Attributes:
        grid: rows and columns of patches.
        patch_size: side of a patch in pixels.
        num_prefix_tokens: tokens before those of the patches (class token, registers).
        stride: side of what one feature of the last layer stands for, in pixels.

    Raises:
        ValueError: if the model is not of this kind, or if patches do not cover the image.
    """

    kind = "model with a grid of patches"
    examples = "vit_* or swin_* models"

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
        if not hasattr(embed, "grid_size") or not self.fits():
            raise ValueError(f"{name!r} is no {self.kind}; take one of timm's {self.examples}")
        self.grid: tuple[int, int] = tuple(embed.grid_size)
        if any(side % self.patch_size for side in embed.img_size):
            raise ValueError(
                f"image_size is {image_size}; expected a multiple of patch_size ({self.patch_size})"
            )
        self.num_prefix_tokens = int(getattr(self.model, "num_prefix_tokens", 0))
        stages = self.model.feature_info
        self.stride = int(stages[-1]["reduction"]) if stages else self.patch_size

    def fits(self) -> bool:
        """Whether the model is of this kind."""
        return True

    def patches(self, features: Tensor) -> Tensor:
        """The last layer's features without prefix tokens: [N, L, D], one for each stride."""
        if features.dim() == 4:  # a map [N, h, w, D]
            return features.flatten(1, 2)
        return features[:, self.num_prefix_tokens :]

    def pooled(self, images: Tensor) -> Tensor:
        """Mean over the patches' features, [N, D]: what a probe of the features looks at."""
        return self.patches(self(images)).mean(dim=1)


class MaskedBackbone(PatchBackbone):
    """A backbone whose input can be masked.

    The embeddings of masked patches are replaced by one learnt token, before positions are added;
    class token, register tokens and positions are the model's own. Arguments and attributes are
    those of `PatchBackbone`.
    """

    def __init__(
        self,
        name: str,
        image_size: int | None = None,
        patch_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, image_size, patch_size, **options)
        self.mask_token = nn.Parameter(torch.zeros(self.model.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self._mask: Tensor | None = None
        # After the patch embedding and before positions: the same place in every model of timm.
        self.model.patch_embed.register_forward_hook(self._replace_masked)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of images, those of masked patches made from the mask token.

        Args:
            images: [N, C, H, W], normalised.
            mask: [N, h, w] or [N, L], nonzero where masked; None or False masks nothing.

        Returns:
            [N, num_prefix_tokens + L, D], or a map [N, h, w, D] where the model makes one.

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
        """[N, L, D] or [N, h, w, D] with the mask token where the mask is set."""
        if self._mask is None:
            return embedded
        mask = self._mask.view(*embedded.shape[:-1], 1)
        return torch.where(mask, self.mask_token.to(embedded.dtype), embedded)


@MODELS.register
class MaskedViT(MaskedBackbone):
    """A vision transformer with masked input, of one sequence of tokens (BEiT, MaskFeat, SimMIM).

    Arguments and attributes are those of `PatchBackbone`.
    """

    kind = "vision transformer with one sequence of tokens"
    examples = "vit_*, deit*, beit* or eva* models"

    def fits(self) -> bool:
        return hasattr(self.model, "num_prefix_tokens")


@MODELS.register
class MaskedSwin(MaskedBackbone):
    """A Swin transformer with masked input (SimMIM).

    Arguments and attributes are those of `PatchBackbone`.
    """

    kind = "Swin transformer"
    examples = "swin_* or swinv2_* models"

    def fits(self) -> bool:
        models = import_timm().models
        return isinstance(self.model, (models.SwinTransformer, models.SwinTransformerV2))


@MODELS.register
class VisibleViT(PatchBackbone):
    """A vision transformer that sees the visible patches alone (MAE).

    Arguments and attributes are those of `PatchBackbone`.
    """

    kind = "plain vision transformer with a position for each patch"
    examples = "vit_* or deit_* models"

    def fits(self) -> bool:
        model = self.model
        plain = isinstance(model, import_timm().models.VisionTransformer)
        return plain and model.pos_embed is not None

    def forward(
        self,
        images: Tensor,
        ids_keep: Tensor | None = None,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> Tensor:
        """Tokens of images, or of their visible patches.

        Args:
            images: [N, C, H, W], normalised, or as mean and std say.
            ids_keep: [N, K] int64, the visible patches; None for all.
            mean, std: [C], what normalises images where only some patches are embedded.

        Returns:
            [N, num_prefix_tokens + K, D].
        """
        if ids_keep is None:
            return super().forward(images)
        model, projection = self.model, self.model.patch_embed.proj
        total = self.grid[0] * self.grid[1]
        positions = model.pos_embed[0]
        tokens = ops.embed_visible_patches(
            images, projection.weight, projection.bias, ids_keep, positions[-total:], mean, std
        )
        tokens = model.patch_embed.norm(tokens)
        prefix = self._prefix(positions[: len(positions) - total])
        tokens = torch.cat([prefix.expand(len(images), -1, -1).to(tokens.dtype), tokens], dim=1)
        return model.norm(model.blocks(model.norm_pre(model.pos_drop(tokens))))

    def _prefix(self, positions: Tensor) -> Tensor:
        """Class and register tokens with their positions, if they have any: [1, P, D]."""
        parts = [self.model.cls_token, self.model.reg_token]
        prefix = torch.cat([part for part in parts if part is not None], dim=1)
        return prefix + positions if len(positions) else prefix
