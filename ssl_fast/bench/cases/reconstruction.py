"""The reconstruction loss as MAE and SimMIM take it: forward, with the gradient, gradient alone."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ..._dispatch import OPS
from ..case import Case, Check, Inputs
from ..gradients import BACKWARD, BOTH, FORWARD, Loss, backward_alone, with_gradients
from ..providers import growing, others, peer, standard

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
OP = "masked_patch_loss"


@dataclass(frozen=True)
class Task:
    """A loss that a method trains with.

    Attributes:
        patch: side of a patch; the mask is on the grid of patches.
        unit: side of what is masked together, in patches.
        ratio: share of the units that are masked.
        shaped: the prediction is an image.
        dtype, pred_dtype: of the images and of the prediction. uint8 images are normalised.
    """

    method: str
    batch: int
    size: int
    patch: int
    unit: int
    ratio: float
    norm_pix: bool
    p: int
    shaped: bool
    dtype: torch.dtype
    pred_dtype: torch.dtype

    @property
    def grid(self) -> int:
        return self.size // self.patch

    @property
    def masked(self) -> int:
        """Patches of an image that are masked."""
        units = (self.grid // self.unit) ** 2
        return int(units * self.ratio) * self.unit**2

    @property
    def statistics(self) -> tuple[Any, Any]:
        return (MEAN, STD) if self.dtype == torch.uint8 else (None, None)

    @property
    def headline(self) -> bool:
        """With its gradient, from either type of images."""
        return self.method.startswith("MAE") and self.pred_dtype == torch.float32

    def inputs(self, device: str, seed: int) -> Inputs:
        """(prediction, images, mask): the prediction a leaf, the mask as the methods have it."""
        generator = torch.Generator(device).manual_seed(seed)
        options: dict[str, Any] = {"device": device, "generator": generator}
        shape = (self.batch, 3, self.size, self.size)
        if self.dtype == torch.uint8:
            images = torch.randint(0, 256, shape, dtype=torch.uint8, **options)
        else:
            images = torch.randn(shape, **options).to(self.dtype)
        tokens = (self.batch, self.grid**2, 3 * self.patch**2)
        pred = torch.randn(shape if self.shaped else tokens, **options).to(self.pred_dtype)
        units = self.grid // self.unit
        order = torch.rand((self.batch, units**2), **options).argsort(dim=1)
        mask = (order < self.masked // self.unit**2).float().view(self.batch, units, units)
        mask = mask.repeat_interleave(self.unit, 1).repeat_interleave(self.unit, 2)
        return pred.requires_grad_(), images, mask if self.shaped else mask.flatten(1)


def cases(device: str, small: bool) -> Iterator[Case]:
    """MAE at 224 px, a uint8 batch and a normalised one; SimMIM on Swin's grid at 192 px."""
    batch = 2 if small else 256 if device == "cuda" else 64
    mae = functools.partial(_mae, batch, 224)
    name = "SimMIM Swin-B at 192"
    simmim = functools.partial(Task, name, batch, 192, 4, 8, 0.6, False, 1, True)
    tasks = [mae(torch.float32, torch.float32)]
    if not small:
        tasks += [mae(torch.uint8, torch.float32), mae(torch.uint8, torch.bfloat16)]
    tasks += [simmim(torch.float32, torch.float32)]
    for task in tasks:
        for way in (FORWARD, BOTH, BACKWARD):
            yield _case(task, way)


def growth(device: str, small: bool) -> Iterator[Case]:
    """Over the image's side, with the gradient."""
    batch = 2 if small else 128 if device == "cuda" else 16
    for side in (32, 64) if small else (64, 128, 224, 512):
        case = _case(_mae(batch, side, torch.float32, torch.float32), BOTH)
        yield growing(case, "side", side)


def _mae(batch: int, side: int, dtype: torch.dtype, pred_dtype: torch.dtype) -> Task:
    return Task(f"MAE at {side}", batch, side, 16, 1, 0.75, True, 2, False, dtype, pred_dtype)


def _case(task: Task, way: str) -> Case:
    def public(pred: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        mean, std = task.statistics
        return ops.masked_patch_loss(
            pred, images, mask, task.patch, task.norm_pix, task.p, mean, std
        )

    def reference(pred: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        mean, std = (torch.tensor(x, device=pred.device) if x else None for x in task.statistics)
        options = (task.patch, task.norm_pix, task.p, mean, std)
        loss: Tensor = OPS[OP].reference(pred, images, mask.flatten(1) != 0, *options)[0]
        return loss

    elements = task.batch * task.masked * 3 * task.patch**2
    complete: Any = {
        FORWARD: torch.no_grad(),
        BOTH: with_gradients((0,), float(elements)),
        BACKWARD: backward_alone((0,), float(elements)),
    }[way]
    narrow = way != FORWARD and task.pred_dtype != torch.float32
    layout = "image" if task.shaped else "tokens"
    return Case(
        op=OP,
        name=f"{task.method}: {task.batch}x3x{task.size}x{task.size}, patch {task.patch}, "
        f"{_name(task.pred_dtype)} {layout}{_and(way)}",
        dtype=_name(task.dtype),
        reference=complete(reference),
        checks=(Check("random images", task.inputs, atol=0.05 if narrow else 2e-5),),
        moved_bytes=_moved_bytes(task, way),
        providers=(
            *standard(OP, public, reference, complete),
            *others("mmpretrain", functools.partial(_mmpretrain, task), ("mmpretrain",), complete),
        ),
        theirs="mmpretrain",
        headline=way == BOTH and task.headline,
    )


def _and(way: str) -> str:
    return {FORWARD: "", BOTH: ", with gradient", BACKWARD: ", gradient alone"}[way]


def _moved_bytes(task: Task, way: str) -> int:
    """Masked patches of image and prediction, read in each direction; the gradient, written."""
    elements = task.masked * 3 * task.patch**2
    read = elements * (task.dtype.itemsize + task.pred_dtype.itemsize) + 4 * task.grid**2
    written = 3 * task.size**2 * task.pred_dtype.itemsize
    return task.batch * {FORWARD: read, BOTH: 2 * read + written, BACKWARD: read + written}[way]


def _mmpretrain(task: Task, device: str) -> Loss:
    """mmpretrain's head, of images as its preprocessor leaves them."""
    module = peer("mmpretrain_peer")
    make = module.simmim_loss if task.shaped else module.mae_loss
    options = (task.patch,) if task.shaped else (task.patch, task.norm_pix)
    head = make(*options)
    if task.dtype != torch.uint8:
        return lambda pred, images, mask: head(pred, images, mask)
    mean, std = (torch.tensor(x, device=device).view(-1, 1, 1) for x in (MEAN, STD))
    return lambda pred, images, mask: head(pred, (images.float() - mean) / std, mask)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
