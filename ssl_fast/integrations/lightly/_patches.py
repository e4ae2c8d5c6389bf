"""What is replaced in lightly."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from ... import distributed, ops
from ...nn.swav import swav_loss
from ...ops.contrastive.arguments import normalized
from ..modules import are_features, cross_entropy_dtype, has_hooks, inherits, sum_dtype
from ..patching import Patches
from . import tokens as ours

patches = Patches("lightly", distributions=("lightly",), install="pip install lightly")

BANK = "lightly.models.modules.memory_bank:MemoryBankModule"


@patches.replaces(
    "lightly.loss.ntx_ent_loss:NTXentLoss.forward",
    "3216f0a93306",
    gain="no matrix of similarities is stored, the memory bank is not copied",
    relies_on={
        f"{BANK}.forward": ("3f21deb018b4", "93cc5a502a79"),
        "lightly.utils.dist:GatherLayer": ("a1a8b4cb92ec",),
        "lightly.utils.dist:eye_rank": ("e5ca2ff5e2d9",),
    },
)
def ntxent_loss(original: Any, self: Any, out0: Tensor, out1: Tensor) -> Tensor:
    """Without a bank `ops.nt_xent`, with it `ops.info_nce_queue`; the bank takes keys as before."""
    if not (
        are_features(out0, out1)
        and out0.shape == out1.shape
        and len(out0)
        and _is_positive(self.temperature)
        and _is_plain_cross_entropy(self.cross_entropy)
        and _has_usual_bank(self.memory_bank, out0.shape[1])
    ):
        return original(self, out0, out1)
    memory = self.memory_bank
    if memory.size[0] == 0:
        group = distributed.default_group() if self.gather_distributed else None
        loss = ops.nt_xent(out0, out1, self.temperature, group=group)
    else:
        query, keys = normalized(out0), normalized(out1)
        bank = memory.bank.to(query)
        loss = ops.info_nce_queue(query, keys, bank, self.temperature)
        # What keys get is formed: the bank may change.
        if query.requires_grad:
            memory._dequeue_and_enqueue(keys)
    return loss.to(cross_entropy_dtype(out0))


def _has_usual_bank(memory: Any, dim: int) -> bool:
    """Whether it is off, or as lightly makes it: 1.5 leaves out its dim until the first batch."""
    from lightly.models.modules.memory_bank import MemoryBankModule

    return (
        inherits(memory, MemoryBankModule, "forward")
        and not has_hooks(memory)
        and (
            memory.size[0] == 0
            or (memory.feature_dim_first and memory.bank.shape == (memory.size[0], dim))
        )
    )


def _is_plain_cross_entropy(module: Any) -> bool:
    return (
        type(module) is nn.CrossEntropyLoss
        and module.weight is None
        and module.label_smoothing == 0
        and module.ignore_index < 0
        and module.reduction == "mean"
        and not has_hooks(module)
    )


@patches.replaces(
    "lightly.loss.barlow_twins_loss:BarlowTwinsLoss.forward",
    "287a9a1f54af",
    gain="no D x D matrix is stored; with correct=True of the global batch too",
    relies_on={
        "lightly.loss.barlow_twins_loss:_normalize": ("fd01a8fc8054",),
        "lightly.loss.barlow_twins_loss:_off_diagonal": ("a8dd99778f76",),
    },
)
def barlow_twins_loss(original: Any, self: Any, z_a: Tensor, z_b: Tensor) -> Tensor:
    """`ops.barlow_twins_loss`; over processes lightly takes each one's own mean and variance."""
    shared = self.gather_distributed and dist.is_initialized() and dist.get_world_size() > 1
    if not (
        are_features(z_a, z_b)
        and z_a.shape == z_b.shape
        and len(z_a) > 1
        and _is_finite(self.lambda_param)
        and (patches.correct or not shared)
    ):
        return original(self, z_a, z_b)
    group = distributed.default_group() if shared else None
    loss = ops.barlow_twins_loss(z_a, z_b, self.lambda_param, group=group)
    return loss.to(sum_dtype(z_a))


@patches.replaces(
    "lightly.loss.swav_loss:SwaVLoss.forward",
    "3182d23c1aa5",
    gain="each crop's softmax is taken once, assignments without rescaling the matrix",
    relies_on={
        "lightly.loss.swav_loss:SwaVLoss.subloss": ("12d1d3528bb8",),
        "lightly.loss.swav_loss:sinkhorn": ("8da16439fd2c",),
    },
)
def swav(
    original: Any,
    self: Any,
    high_resolution_outputs: Sequence[Tensor],
    low_resolution_outputs: Sequence[Tensor],
    queue_outputs: Sequence[Tensor] | None = None,
) -> Tensor:
    """`nn.SwaVLoss`; the result is [1] and of the scores' type, as lightly's."""
    from lightly.loss.swav_loss import SwaVLoss

    arguments = high_resolution_outputs, low_resolution_outputs, queue_outputs
    crops = [*high_resolution_outputs, *low_resolution_outputs]
    queues = [] if queue_outputs is None else list(queue_outputs)
    if not (
        inherits(self, SwaVLoss, "subloss")
        and len(crops) > 1
        and are_features(*crops, *queues)
        and all(crop.shape == crops[0].shape for crop in crops)
        and len(crops[0])
        and (queue_outputs is None or len(queues) == len(high_resolution_outputs))
        and len(high_resolution_outputs)
        and _is_positive(self.temperature)
        and _is_positive(self.sinkhorn_epsilon)
        and isinstance(self.sinkhorn_iterations, int)
        and self.sinkhorn_iterations > 0
    ):
        return original(self, *arguments)
    loss = swav_loss(
        *arguments,
        temperature=self.temperature,
        epsilon=self.sinkhorn_epsilon,
        iterations=self.sinkhorn_iterations,
        group=distributed.default_group() if self.sinkhorn_gather_distributed else None,
    )
    return loss.to(crops[0].dtype).reshape(1)


UTILS = "lightly.models.utils"
INDEX = {f"{UTILS}:expand_index_like": ("73d6c322ae86",)}
WORTHWHILE_IMAGES = 4  # for fewer masked ones a loop in Python is as fast


def _standing_in(function: Callable[..., Any]) -> Callable[..., Any]:
    """A replacement by a function of ours that takes whatever theirs does."""

    def replacement(original: Any, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return replacement


def _replaces(name: str, known: str, function: Callable[..., Any], **options: Any) -> None:
    patches.replaces(f"{UTILS}:{name}", known, **options)(_standing_in(function))


_replaces(
    "random_token_mask", "ae8558bea8fc", ours.random_token_mask, gain="one kernel sorts the noise"
)
_replaces(
    "get_at_index",
    "67be669ef9e8",
    ours.get_at_index,
    gain="whole tokens are copied, both ways; differentiable once",
    relies_on=INDEX,
)
_replaces(
    "set_at_index",
    "509038e8ccac",
    ours.set_at_index,
    gain="whole tokens are copied, both ways",
    relies_on=INDEX,
)
_replaces(
    "mask_at_index",
    "ad5a93f78827",
    ours.mask_at_index,
    gain="a choice by token in place of products with zeros and ones",
)
_replaces(
    "normalize_mean_var", "3e3a0ae9aec1", ours.normalize_mean_var, gain="one pass, by layer norm"
)


@patches.replaces(
    f"{UTILS}:random_block_mask",
    "aaa71c2239f1",
    gain="the whole batch at once, on its device, from torch's generator",
    relies_on={f"{UTILS}:random_block_mask_image": ("a9845b635fd5",)},
)
def random_block_mask(
    original: Any,
    size: tuple[int, int, int],
    batch_mask_ratio: float = 0.5,
    min_image_mask_ratio: float = 0.1,
    max_image_mask_ratio: float = 0.5,
    min_num_masks_per_block: int = 4,
    max_num_masks_per_block: int | None = None,
    min_block_aspect_ratio: float = 0.3,
    max_block_aspect_ratio: float | None = None,
    max_attempts_per_block: int = 10,
    device: Any = None,
) -> Tensor:
    """`ops.ibot_mask`, whose law is the same."""
    batch, height, width = size
    # Where an image may be asked for less than a block, lightly raises in its own way.
    fewest = int(height * width * min_image_mask_ratio)
    limited = max_num_masks_per_block is not None or fewest >= min_num_masks_per_block
    many = int(batch * batch_mask_ratio) >= WORTHWHILE_IMAGES
    served = limited and max_attempts_per_block == 10 and many
    mask = ours.random_block_mask if served else original
    return mask(
        size,
        batch_mask_ratio,
        min_image_mask_ratio,
        max_image_mask_ratio,
        min_num_masks_per_block,
        max_num_masks_per_block,
        min_block_aspect_ratio,
        max_block_aspect_ratio,
        max_attempts_per_block,
        device,
    )


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_finite(value) and value > 0
