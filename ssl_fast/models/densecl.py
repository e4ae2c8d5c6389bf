"""DenseCL: MoCo v2, and besides each place of the map finds its place in the other view.

Source: Wang et al., "Dense Contrastive Learning for Self-Supervised Visual Pre-Training" (2021).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..nn import MemoryBank
from .backbones import backbone_for
from .measures import feature_std
from .moco import MoCo, unit
from .registry import MODELS
from .views import views_of


@MODELS.register
class DenseCL(MoCo):
    """The places of two views belong together whose backbone features are the most similar.

    Args:
        backbone: from images to a map [N, C, h, w], such as `TimmBackbone` of out_type "featmap".
        neck: from maps to three embeddings, such as `DenseCLNeck`.
        head, queue_len, feat_dim, momentum, options: see `MoCo`; there are two queues, the second
            of means over the places.
        loss_lambda: weight of the dense loss; the other has 1 - loss_lambda.
        start_iters: steps before the dense loss sets in; until then the other has weight 1.

    Raises:
        ValueError: for a loss_lambda out of range.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | nn.Module,
        neck: dict[str, Any] | nn.Module,
        head: dict[str, Any] | nn.Module,
        queue_len: int = 65536,
        feat_dim: int = 128,
        momentum: float = 0.001,
        loss_lambda: float = 0.5,
        start_iters: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(backbone, neck, head, queue_len, feat_dim, momentum, **options)
        if not 0 <= loss_lambda <= 1:
            raise ValueError(f"loss_lambda is {loss_lambda}; accepted are 0 to 1")
        self.loss_lambda = loss_lambda
        self.start_iters = start_iters
        self.queue2 = MemoryBank(queue_len, feat_dim)

    def loss(self, inputs: list[Tensor], data_samples: Any = None) -> dict[str, Tensor]:
        """The DenseCL loss of two views, that of the queries and that of the keys.

        Returns:
            {"loss_single": scalar, "loss_dense": scalar, "feature_std": scalar}.
        """
        query_view, key_view = self.normalized(views_of(inputs, 2))
        self._follow()
        query_map = self.backbone(query_view)
        query, query_dense, _ = map(unit, self.neck(query_map))
        key_map, *keys = self._encoded_keys(self._key_maps, key_view)
        key, key_dense, key_mean = map(unit, keys)

        matched = matching(query_map.detach(), key_map)
        positive = torch.take_along_dim(key_dense, matched[:, None], dim=2)
        rows, columns = (x.transpose(1, 2).flatten(0, 1) for x in (query_dense, positive))
        dense = self.loss_lambda if self.steps.over(self.start_iters) else 0.0
        losses = {
            "loss_single": (1 - dense) * self._among_queue(query, key, self.queue),
            "loss_dense": dense * self._among_queue(rows, columns, self.queue2),
            "feature_std": feature_std(query),
        }
        self._enqueue(self.queue, key)
        self._enqueue(self.queue2, key_mean)
        return losses

    def _key_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The backbone's map and the neck's embeddings of it, of the key encoder."""
        backbone, neck = self.encoder_k.module
        features = backbone(images)
        return features, *neck(features)


def matching(query_map: Tensor, key_map: Tensor) -> Tensor:
    """For each place of the query's map, the most similar place of the key's: [N, S] int64.

    Args:
        query_map, key_map: [N, C, h, w] of S places.
    """
    query, key = (unit(features.flatten(2)) for features in (query_map, key_map))
    return torch.einsum("ncs,nct->nst", query, key).argmax(dim=2)


def densecl_config(
    backbone: str,
    image_size: int,
    patch_size: int | None = None,
    temperature: float = 0.2,
    queue_len: int = 65536,
    momentum: float = 0.001,
    hidden_dim: int | None = None,
    out_dim: int = 128,
    loss_lambda: float = 0.5,
    start_iters: int = 1000,
    backbone_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of a DenseCL over a model of timm.

    Args:
        backbone: a model of timm.
        image_size, patch_size: in pixels; patch_size None for the backbone's own, if it has any.
        temperature: see `ContrastiveHead`.
        queue_len, momentum, loss_lambda, start_iters: see `DenseCL`.
        hidden_dim, out_dim: of both projectors; hidden_dim None for the features' own.
        backbone_options: of `timm.create_model`.
    """
    model = backbone_for(
        backbone, image_size, patch_size, out_type="featmap", **(backbone_options or {})
    )
    return dict(
        type="DenseCL",
        backbone=model,
        neck=dict(
            type="DenseCLNeck",
            in_channels=model.num_features,
            hid_channels=hidden_dim or model.num_features,
            out_channels=out_dim,
        ),
        head=dict(type="ContrastiveHead", temperature=temperature),
        queue_len=queue_len,
        feat_dim=out_dim,
        momentum=momentum,
        loss_lambda=loss_lambda,
        start_iters=start_iters,
    )
