"""SimCLR, MoCo and DenseCL without their matrices of logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import ops
from ...distributed import default_group
from ._patches import patches
from .heads import CONTRASTIVE_HEAD, gathers_on, is_contrastive, weighted


@patches.replaces(
    "mmpretrain.models.selfsup.simclr:SimCLR.loss",
    "2762ed29fd6b",
    gain="no matrix of similarities",
    relies_on={
        "mmpretrain.models.selfsup.simclr:SimCLR._create_buffer": ("a21eee6122d6",),
        "mmpretrain.models.selfsup.simclr:GatherLayer.forward": ("5e27f851576c",),
        "mmpretrain.models.selfsup.simclr:GatherLayer.backward": ("abdf0f2943c5",),
        **CONTRASTIVE_HEAD,
    },
)
def simclr_loss(original: Any, self: Any, inputs: Any, data_samples: Any, **kwargs: Any) -> Any:
    """Views are interleaved: rows 2i and 2i + 1 belong together."""
    from mmpretrain.models.selfsup.simclr import SimCLR

    served = (
        isinstance(inputs, list)
        and len(inputs) == 2
        and is_contrastive(self.head)
        and self._create_buffer is SimCLR._create_buffer
        and gathers_on(inputs[0].device)
    )
    if not served:
        return original(self, inputs, data_samples, **kwargs)
    z = self.neck(self.backbone(torch.stack(inputs, dim=1).flatten(0, 1)))[0]
    loss = ops.nt_xent(
        z[0::2],
        z[1::2],
        self.head.temperature,
        group=default_group(),
        compat=None if patches.correct else "mmpretrain",
    )
    return {"loss": weighted(self.head, loss, z)}


@patches.replaces(
    "mmpretrain.models.selfsup.moco:MoCo.loss",
    "01a24360bb89",
    gain="no logits of the queue and no copy of it",
    relies_on=CONTRASTIVE_HEAD,
)
def moco_loss(original: Any, self: Any, inputs: Any, data_samples: Any, **kwargs: Any) -> Any:
    """The queue is read in place, and not again in the backward."""
    from mmpretrain.models.selfsup import moco

    if not (isinstance(inputs, list) and is_contrastive(self.head)):
        return original(self, inputs, data_samples, **kwargs)
    query = F.normalize(self.neck(self.backbone(inputs[0]))[0], dim=1)
    with torch.no_grad():
        self.encoder_k.update_parameters(nn.Sequential(self.backbone, self.neck))
        shuffled, order = moco.batch_shuffle_ddp(inputs[1])
        key = F.normalize(self.encoder_k(shuffled)[0], dim=1)
        key = moco.batch_unshuffle_ddp(key, order)
    loss = among_queue(self.head, query, key, self.queue)
    self._dequeue_and_enqueue(key)
    return {"loss": loss}


@patches.replaces(
    "mmpretrain.models.selfsup.densecl:DenseCL.loss",
    "5f8f5810fbf0",
    gain="no logits of the queues, no copies of them, no graph of the matching",
    relies_on=CONTRASTIVE_HEAD,
)
def densecl_loss(original: Any, self: Any, inputs: Any, data_samples: Any, **kwargs: Any) -> Any:
    """As MoCo's, and the places of the maps against a queue of their own."""
    from mmpretrain.models.selfsup import densecl

    if not (isinstance(inputs, list) and is_contrastive(self.head)):
        return original(self, inputs, data_samples, **kwargs)
    query_maps = self.backbone(inputs[0])
    query, query_places, _ = (F.normalize(x, dim=1) for x in self.neck(query_maps))
    with torch.no_grad():
        backbone, neck = self.encoder_k.module
        self.encoder_k.update_parameters(nn.Sequential(self.backbone, self.neck))
        shuffled, order = densecl.batch_shuffle_ddp(inputs[1])
        key_maps = backbone(shuffled)
        features = (*neck(key_maps), key_maps[0].flatten(2))
        keys = (F.normalize(x, dim=1) for x in features)
        key, key_places, key_mean, key_map = (densecl.batch_unshuffle_ddp(x, order) for x in keys)
        # Steps as upstream's, so that equal similarities are decided equally.
        query_map = F.normalize(query_maps[0].flatten(2), dim=1)
        matched = torch.matmul(query_map.transpose(1, 2), key_map).max(dim=2)[1]
        positive = torch.take_along_dim(key_places, matched[:, None], dim=2)
    rows, columns = (x.transpose(1, 2).flatten(0, 1) for x in (query_places, positive))
    losses = {
        "loss_single": among_queue(self.head, query, key, self.queue) * (1 - self.loss_lambda),
        "loss_dense": among_queue(self.head, rows, columns, self.queue2) * self.loss_lambda,
    }
    self._dequeue_and_enqueue(key)
    self._dequeue_and_enqueue2(key_mean)
    return losses


def _enqueue_on_device(queue: Tensor, pointer: Tensor, keys: Tensor) -> None:
    """Keys [N, D] into queue [D, K] from `pointer` on, which moves; the host reads nothing."""
    size = queue.shape[1]
    places = (pointer + torch.arange(len(keys), device=queue.device)).remainder_(size)
    queue.index_copy_(1, places, keys.t().to(queue.dtype))
    pointer.add_(len(keys)).remainder_(size)


def _enqueue(original: Any, model: Any, keys: Tensor, queue: Tensor, pointer: Tensor) -> None:
    """What upstream's methods do; on a CPU, where nothing waits, they do it."""
    if not queue.is_cuda or queue.shape[1] != model.queue_len:
        original(model, keys)
        return
    from mmengine.dist import all_gather

    with torch.no_grad():
        keys = torch.cat(all_gather(keys), dim=0)
        if model.queue_len % len(keys):
            raise AssertionError(
                f"queue_len is {model.queue_len}; it must be a multiple of the {len(keys)} keys "
                f"of all processes"
            )
        _enqueue_on_device(queue, pointer, keys)


@patches.replaces(
    "mmpretrain.models.selfsup.moco:MoCo._dequeue_and_enqueue",
    "4e635b2b03fe",
    gain="no wait for the GPU",
)
def moco_enqueue(original: Any, self: Any, keys: Tensor) -> None:
    """Of MoCo."""
    _enqueue(original, self, keys, self.queue, self.queue_ptr)


@patches.replaces(
    "mmpretrain.models.selfsup.densecl:DenseCL._dequeue_and_enqueue",
    "4e635b2b03fe",
    gain="no wait for the GPU",
)
def densecl_enqueue(original: Any, self: Any, keys: Tensor) -> None:
    """Of DenseCL."""
    _enqueue(original, self, keys, self.queue, self.queue_ptr)


@patches.replaces(
    "mmpretrain.models.selfsup.densecl:DenseCL._dequeue_and_enqueue2",
    "e15cfa0b7ce8",
    gain="no wait for the GPU",
)
def densecl_enqueue_places(original: Any, self: Any, keys: Tensor) -> None:
    """Of DenseCL's second queue."""
    _enqueue(original, self, keys, self.queue2, self.queue2_ptr)


def among_queue(head: Any, query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    """A head's loss of queries and keys [N, D] against queue [D, K]."""
    return weighted(head, ops.info_nce_queue(query, key, queue.t(), head.temperature), query)
