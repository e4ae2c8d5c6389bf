"""SwAV: from each view, predict which prototypes the other views were assigned to.

Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments"
(2020).
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..distributed import default_group, world_size
from ..nn import MemoryBank
from .backbones import backbone_for
from .base import BaseSelfSupervisor
from .measures import feature_std
from .momentum import StepCounter, gathered, is_training
from .registry import MODELS
from .views import views_of

TARGETS = 2  # views that are assigned to prototypes: the whole ones, which come first


@MODELS.register
class SwAVHead(nn.Module):
    """Prototypes of length 1, and the loss of swapped predictions.

    Args:
        feat_dim: size of an embedding.
        num_prototypes: K.
        epsilon: smoothness of the assignments.
        temperature: divides the scores of predictions.
        num_iters: iterations of Sinkhorn's algorithm.

    Raises:
        ValueError: for values that are not positive.
    """

    def __init__(
        self,
        feat_dim: int = 128,
        num_prototypes: int = 3000,
        epsilon: float = 0.05,
        temperature: float = 0.1,
        num_iters: int = 3,
    ) -> None:
        super().__init__()
        for name, value in (("epsilon", epsilon), ("temperature", temperature)):
            if not value > 0:
                raise ValueError(f"{name} is {value}; expected over 0")
        self.prototypes = nn.Linear(feat_dim, num_prototypes, bias=False)
        self.epsilon = epsilon
        self.temperature = temperature
        self.num_iters = num_iters

    def forward(self, embeddings: Tensor, frozen: bool = False) -> Tensor:
        """Scores [N, K] of embeddings [N, D], in float32; frozen prototypes get gradients of 0."""
        weight = self.prototypes.weight
        if frozen:  # of 0, since data parallelism waits for a gradient of each parameter
            weight = weight.detach() + 0 * weight
        return F.linear(embeddings, weight).float()

    @torch.no_grad()
    def normalize(self) -> None:
        """Gives the prototypes length 1."""
        weight = self.prototypes.weight
        weight.copy_(F.normalize(weight, dim=1))

    @torch.no_grad()
    def assign(self, scores: Tensor, queued: Tensor | None = None) -> Tensor:
        """Assignments [N, K] of a batch of all processes, each prototype's share being equal.

        Args:
            scores: [N, K].
            queued: [M, K], scores of embeddings seen before, which take part.
        """
        every = scores if queued is None else torch.cat([queued, scores])
        assigned = ops.sinkhorn(every, self.epsilon, self.num_iters, group=default_group())
        return assigned[-len(scores) :]

    def loss(self, scores: list[Tensor], assigned: list[Tensor]) -> Tensor:
        """Cross entropy of each assignment with the predictions of all other views.

        Args:
            scores: [N, K] of each view.
            assigned: [N, K] of each of the first views.
        """
        predictions = [F.log_softmax(score / self.temperature, dim=1) for score in scores]
        parts = [
            -(target * prediction).sum(dim=1).mean()
            for index, target in enumerate(assigned)
            for other, prediction in enumerate(predictions)
            if other != index
        ]
        return torch.stack(parts).mean()


@MODELS.register
class SwAV(BaseSelfSupervisor):
    """Two whole views are assigned to prototypes; all views, smaller ones too, predict that.

    Args:
        backbone: from images to features; it takes the sizes of all views.
        neck: from features to embeddings [N, feat_dim], such as `SwAVNeck`.
        head: such as `SwAVHead`.
        queue_len: embeddings kept of each whole view, in all processes together, so that small
            batches are assigned well; 0 for none.
        feat_dim: size of an embedding.
        queue_start: steps before the queues fill; they take part once they are full.
        freeze_steps: steps in which the prototypes get no gradient.
        options: see `BaseSelfSupervisor`.

    Raises:
        ValueError: for negative numbers.
    """

    def __init__(
        self,
        backbone: dict[str, Any] | nn.Module,
        neck: dict[str, Any] | nn.Module,
        head: dict[str, Any] | nn.Module,
        queue_len: int = 0,
        feat_dim: int = 128,
        queue_start: int = 0,
        freeze_steps: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(backbone=backbone, neck=neck, head=head, **options)
        for name, value in (
            ("queue_len", queue_len),
            ("queue_start", queue_start),
            ("freeze_steps", freeze_steps),
        ):
            if value < 0:
                raise ValueError(f"{name} is {value}; expected 0 or more")
        self.queue_len = queue_len
        self.queue_start = queue_start
        self.freeze_steps = freeze_steps
        self.steps = StepCounter()
        count = TARGETS if queue_len else 0
        self.queues: Any = nn.ModuleList(MemoryBank(queue_len, feat_dim) for _ in range(count))

    def loss(self, inputs: list[Tensor], data_samples: Any = None) -> dict[str, Tensor]:
        """The SwAV loss of a batch.

        Args:
            inputs: views [N, C, H, W], two whole ones first; uint8 or normalised floats.
            data_samples: not used.

        Returns:
            {"loss": scalar, "feature_std": scalar}; see `feature_std`.
        """
        views = self.normalized(views_of(inputs, TARGETS, more=True))
        # Views of one size go through the backbone together.
        sizes = [list(same) for _, same in groupby(views, key=lambda view: view.shape[-2:])]
        features = torch.cat([self.backbone(torch.cat(same)) for same in sizes])
        embeddings = self.neck(features)
        training = is_training(self)
        if training:
            self.steps.begin()
            self.head.normalize()
        frozen = training and not self.steps.over(self.freeze_steps)
        scores = self.head(embeddings, frozen).chunk(len(views))
        whole = embeddings.detach().chunk(len(views))[:TARGETS]
        assigned = [
            self.head.assign(score.detach(), self._queued(index, len(score)))
            for index, score in enumerate(scores[:TARGETS])
        ]
        if training and self.queue_len and self.steps.over(self.queue_start):
            for queue, embedding in zip(self.queues, whole, strict=True):
                queue.enqueue(gathered(embedding))
        loss = self.head.loss(scores, assigned)
        return {"loss": loss, "feature_std": feature_std(whole[0])}

    def _queued(self, index: int, batch: int) -> Tensor | None:
        """Scores of the embeddings that a full queue has, those of this process; else None."""
        group = default_group()
        ranks = world_size(group)
        to_fill = -(-self.queue_len // (batch * ranks))
        if not self.queue_len or not self.steps.over(self.queue_start + to_fill):
            return None
        # All processes have the same queue, of which each gives its part.
        rank = 0 if group is None else torch.distributed.get_rank(group)
        rows = self.queue_len // ranks
        with torch.no_grad():
            return self.head(self.queues[index].bank[rank * rows : (rank + 1) * rows])


def swav_config(
    backbone: str,
    image_size: int,
    patch_size: int | None = None,
    num_prototypes: int = 3000,
    epsilon: float = 0.05,
    temperature: float = 0.1,
    queue_len: int = 0,
    queue_start: int = 0,
    freeze_steps: int = 313,
    hidden_dim: int = 2048,
    out_dim: int = 128,
    backbone_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of a SwAV over a model of timm.

    Args:
        backbone: a model of timm that takes images of any size, such as a ResNet, or a ViT.
        image_size, patch_size: in pixels; patch_size None for the backbone's own, if it has any.
        num_prototypes, epsilon, temperature: see `SwAVHead`.
        queue_len, queue_start, freeze_steps: see `SwAV`.
        hidden_dim, out_dim: of the projector.
        backbone_options: of `timm.create_model`.
    """
    options = backbone_options or {}
    if backbone.startswith(("vit", "deit")):  # small views have fewer patches
        options = {"dynamic_img_size": True, **options}
    model = backbone_for(backbone, image_size, patch_size, **options)
    return dict(
        type="SwAV",
        backbone=model,
        neck=dict(
            type="SwAVNeck",
            in_channels=model.num_features,
            hid_channels=hidden_dim,
            out_channels=out_dim,
        ),
        head=dict(
            type="SwAVHead",
            feat_dim=out_dim,
            num_prototypes=num_prototypes,
            epsilon=epsilon,
            temperature=temperature,
        ),
        queue_len=queue_len,
        feat_dim=out_dim,
        queue_start=queue_start,
        freeze_steps=freeze_steps,
    )
