"""SimCLR, MoCo, DenseCL and MoCo v3 without their matrices of logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import ops
from ...distributed import default_group
from ._patches import patches

# What a loss module does, which is then done by the op.
CROSS_ENTROPY = {
    "mmpretrain.models.losses.cross_entropy_loss:CrossEntropyLoss.forward": ("28d9a26010eb",),
    "mmpretrain.models.losses.cross_entropy_loss:cross_entropy": ("524b358cd8bc",),
    "mmpretrain.models.losses.utils:weight_reduce_loss": ("5f7136e73d17",),
    "mmpretrain.models.losses.utils:reduce_loss": ("9c2c93322111",),
}
CONTRASTIVE_HEAD = {
    "mmpretrain.models.heads.contrastive_head:ContrastiveHead.loss": ("f10bf3dcbff2",),
    **CROSS_ENTROPY,
}


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


@patches.replaces(
    "mmpretrain.models.heads.mocov3_head:MoCoV3Head.loss",
    "df1e2262ae6f",
    gain="no matrix of logits",
    relies_on=CROSS_ENTROPY,
)
def mocov3_loss(original: Any, self: Any, base_out: Tensor, momentum_out: Tensor) -> Any:
    """Each process's queries against the keys of all."""
    from mmengine.dist import all_gather, get_rank

    if not is_cross_entropy(self):
        return original(self, base_out, momentum_out)
    query = F.normalize(self.predictor([base_out])[0], dim=1)
    key = torch.cat(all_gather(F.normalize(momentum_out, dim=1)), dim=0)
    rows = len(query)
    targets = torch.arange(rows, device=query.device) + rows * get_rank()
    loss = ops.info_nce(query, key, targets, self.temperature)
    return weighted(self, loss, query)


def among_queue(head: Any, query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    """A head's loss of queries and keys [N, D] against queue [D, K]."""
    return weighted(head, ops.info_nce_queue(query, key, queue.t(), head.temperature), query)


def is_contrastive(head: Any) -> bool:
    """Whether a head does what mmpretrain's ContrastiveHead does, with a plain cross entropy."""
    from mmpretrain.models.heads import ContrastiveHead

    return is_method(head.loss, ContrastiveHead.loss) and is_cross_entropy(head)


def is_cross_entropy(head: Any) -> bool:
    """Whether a head's loss is the mean cross entropy of logits over a temperature."""
    from mmpretrain.models.losses.cross_entropy_loss import CrossEntropyLoss, cross_entropy

    loss = head.loss_module
    return (
        type(loss) is CrossEntropyLoss
        and loss.cls_criterion is cross_entropy
        and loss.reduction == "mean"
        and loss.class_weight is None
        and not has_hooks(loss)
        and isinstance(head.temperature, int | float)
        and head.temperature > 0
    )


def is_method(bound: Any, function: Any) -> bool:
    """Whether an object's method is this function, and not one of a subclass or of its own."""
    return getattr(bound, "__func__", None) is function


def has_hooks(module: nn.Module) -> bool:
    """Whether calling a module would call something besides its forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def gathers_on(device: torch.device) -> bool:
    """Whether processes exchange tensors of a device as they are (upstream copies them to one)."""
    from mmengine.dist import get_comm_device

    return default_group() is None or get_comm_device().type == device.type


def weighted(head: Any, loss: Tensor, features: Tensor) -> Tensor:
    """A loss times its module's weight, in the type that cross entropy of the features has."""
    if not torch.is_autocast_enabled(features.device.type):
        loss = loss.to(features.dtype)
    return loss * head.loss_module.loss_weight
