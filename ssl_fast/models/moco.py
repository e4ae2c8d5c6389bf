"""MoCo v2: queries find their keys among a queue of keys that a slow copy of the encoder made.

Sources: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (2020);
Chen et al., "Improved Baselines with Momentum Contrastive Learning" (2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from ..distributed import default_group, gather_rows, share_of
from ..nn import MemoryBank
from .backbones import backbone_for
from .base import BaseSelfSupervisor
from .measures import feature_std
from .momentum import MomentumEncoder, StepCounter, gathered, is_training
from .registry import MODELS
from .views import views_of


@MODELS.register
class MoCo(BaseSelfSupervisor):
    """Keys are made by a moving average of backbone and neck, and join a queue.

    Encoder and queue move on in `loss` while the model is training with gradients: no trainer is
    needed. With several processes the keys of all join the queue, and images are shuffled between
    processes for the key encoder, so that the batch statistics of a process do not give away which
    keys are its own; with synchronised batch norms, or none, there is nothing to give away.

    Args:
        backbone: from images to features.
        neck: from features to embeddings [N, feat_dim], such as `MoCoV2Neck`.
        head: with a `temperature`, such as `ContrastiveHead`.
        queue_len: keys in the queue.
        feat_dim: size of an embedding.
        momentum: of the key encoder; see `MomentumEncoder`.
        options: see `BaseSelfSupervisor`.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | nn.Module,
        neck: dict[str, Any] | nn.Module,
        head: dict[str, Any] | nn.Module,
        queue_len: int = 65536,
        feat_dim: int = 128,
        momentum: float = 0.001,
        **options: Any,
    ) -> None:
        super().__init__(backbone=backbone, neck=neck, head=head, **options)
        self.encoder_k = MomentumEncoder(self.backbone, self.neck, momentum=momentum)
        self.steps = StepCounter()
        self.queue = MemoryBank(queue_len, feat_dim)

    def loss(self, inputs: list[Tensor], data_samples: Any = None) -> dict[str, Tensor]:
        """The MoCo loss of two views, that of the queries and that of the keys; see `SimCLR.loss`.

        Queries and keys are not exchanged, as in the paper.
        """
        query_view, key_view = self.normalized(views_of(inputs, 2))
        self._follow()
        query = unit(self.neck(self.backbone(query_view)))
        key = unit(self._encoded_keys(self.encoder_k, key_view))
        loss = self._among_queue(query, key, self.queue)
        self._enqueue(self.queue, key)
        return {"loss": loss, "feature_std": feature_std(query)}

    def _follow(self) -> None:
        if is_training(self) and self.steps.begin():
            self.encoder_k.follow(self.backbone, self.neck, steps=self.steps)

    @torch.no_grad()
    def _encoded_keys(self, encode: Callable[[Tensor], Any], images: Tensor) -> Any:
        if not any(isinstance(module, BATCH_NORMS) for module in self.encoder_k.modules()):
            return encode(images)
        return shuffled(encode, images, seed=self.steps.count)

    def _among_queue(self, query: Tensor, key: Tensor, queue: MemoryBank) -> Tensor:
        """The loss of queries and keys [N, D] against a queue."""
        return self.similarity_loss(
            query, key, self.head.temperature, op="info_nce_queue", queue=queue.bank
        )

    def _enqueue(self, queue: MemoryBank, key: Tensor) -> None:
        if is_training(self):
            queue.enqueue(gathered(key))


# Those that take statistics of their own process's batch.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1 along dimension 1, in float32."""
    return F.normalize(x.float(), dim=1)


def shuffled(encode: Callable[[Tensor], Any], images: Tensor, seed: int) -> Any:
    """What an encoder makes of images [N, ...], each processed by a random process.

    Args:
        encode: images to tensors [N, ...], one or a nest of them.
        seed: equal in all processes.
    """
    group = default_group()
    if group is None:
        return encode(images)
    share = share_of(len(images), group, False, images.device)
    order = torch.randperm(share.total, generator=torch.Generator().manual_seed(seed))
    here = slice(share.offset, share.offset + share.count)
    theirs, back = (ids[here].to(images.device) for ids in (order, order.argsort()))
    encoded = encode(gather_rows(images, share)[theirs])
    return _pytree.tree_map(lambda x: gather_rows(x, share)[back], encoded)


def moco_config(
    backbone: str,
    image_size: int,
    patch_size: int | None = None,
    temperature: float = 0.2,
    queue_len: int = 65536,
    momentum: float = 0.001,
    hidden_dim: int | None = None,
    out_dim: int = 128,
    backbone_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of a MoCo v2 over a model of timm.

    Args:
        backbone: a model of timm.
        image_size, patch_size: in pixels; patch_size None for the backbone's own, if it has any.
        temperature: see `ContrastiveHead`.
        queue_len, momentum: see `MoCo`.
        hidden_dim, out_dim: of the projector; hidden_dim None for the features' own.
        backbone_options: of `timm.create_model`.
    """
    model = backbone_for(backbone, image_size, patch_size, **(backbone_options or {}))
    return dict(
        type="MoCo",
        backbone=model,
        neck=dict(
            type="MoCoV2Neck",
            in_channels=model.num_features,
            hid_channels=hidden_dim or model.num_features,
            out_channels=out_dim,
        ),
        head=dict(type="ContrastiveHead", temperature=temperature),
        queue_len=queue_len,
        feat_dim=out_dim,
        momentum=momentum,
    )
