"""The reconstruction loss as MAE and SimMIM take it, forward and with the gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ..._dispatch import OPS
from ..case import Case, Check, Inputs, Provider
from ..providers import standard, under_torch_compile

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
OP = "masked_patch_loss"
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


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
    mae = functools.partial(Task, "MAE", batch, 224, 16, 1, 0.75, True, 2, False)
    simmim = functools.partial(Task, "SimMIM", batch, 192, 4, 8, 0.6, False, 1, True)
    tasks = [mae(torch.float32, torch.float32)]
    if not small:
        tasks += [mae(torch.uint8, torch.float32), mae(torch.uint8, torch.bfloat16)]
    tasks += [simmim(torch.float32, torch.float32)]
    for task in tasks:
        yield _case(task, backward=False)
        yield _case(task, backward=True)


def _case(task: Task, backward: bool) -> Case:
    def public(pred: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        mean, std = task.statistics
        return ops.masked_patch_loss(
            pred, images, mask, task.patch, task.norm_pix, task.p, mean, std
        )

    def reference(pred: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        mean, std = (torch.tensor(x, device=pred.device) if x else None for x in task.statistics)
        options = (task.patch, task.norm_pix, task.p, mean, std)
        return OPS[OP].reference(pred, images, mask.flatten(1) != 0, *options)

    upstream = simmim_loss(task) if task.shaped else mae_loss(task)
    complete = _with_gradient(task) if backward else _without_gradient
    narrow = backward and task.pred_dtype != torch.float32
    layout = "image" if task.shaped else "tokens"
    return Case(
        op=OP,
        name=f"{task.method} {task.batch}x3x{task.size}x{task.size}, patch {task.patch}, "
        f"{_name(task.pred_dtype)} {layout}{', with gradient' if backward else ''}",
        dtype=_name(task.dtype),
        reference=complete(reference),
        checks=(Check("random images", task.inputs, atol=0.05 if narrow else 2e-5),),
        moved_bytes=_moved_bytes(task, backward),
        providers=_providers(public, reference, upstream, complete),
    )


def _providers(
    public: Loss, reference: Loss, upstream: Loss, complete: Callable[[Loss], Callable[..., Any]]
) -> tuple[Provider, ...]:
    """Compiled is the loss alone: autograd runs through it, as in training."""

    def completed(provider: Provider) -> Provider:
        return Provider(provider.name, lambda device: complete(provider.prepare(device)))

    own = standard(OP, complete(public), complete(reference))
    law = Provider("mmpretrain's law", lambda device: upstream)
    return (
        *(provider for provider in own if provider.name != "reference compiled"),
        completed(under_torch_compile(Provider("reference", lambda device: reference))),
        completed(law),
        completed(under_torch_compile(law)),
    )


def _without_gradient(loss: Loss) -> Callable[..., Any]:
    return torch.no_grad()(loss)


def _with_gradient(task: Task) -> Callable[[Loss], Callable[..., Any]]:
    """Scaled by the number of elements, so that the values are of the size of a difference."""
    scale = float(task.batch * task.masked * 3 * task.patch**2)

    def complete(loss: Loss) -> Callable[..., Any]:
        def run(pred: Tensor, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            leaf = pred.detach().requires_grad_()
            value = loss(leaf, images, mask)
            (gradient,) = torch.autograd.grad(value, leaf, torch.full_like(value, scale))
            return value.detach(), gradient

        return run

    return complete


def _moved_bytes(task: Task, backward: bool) -> int:
    """Masked patches of image and prediction, read in each direction; the gradient, written."""
    elements = task.masked * 3 * task.patch**2
    read = elements * (task.dtype.itemsize + task.pred_dtype.itemsize) + 4 * task.grid**2
    if not backward:
        return task.batch * read
    return task.batch * (2 * read + 3 * task.size**2 * task.pred_dtype.itemsize)


def mae_loss(task: Task) -> Loss:
    """The steps of mmpretrain's MAEPretrainHead and PixelReconstructionLoss, one by one."""

    def loss(pred: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        images = _normalised(images)
        batch, channels, height, width = images.shape
        p, h, w = task.patch, height // task.patch, width // task.patch
        target = torch.einsum("nchpwq->nhwpqc", images.reshape(batch, channels, h, p, w, p))
        target = target.reshape(batch, h * w, p * p * channels)
        if task.norm_pix:
            mean = target.mean(dim=-1, keepdim=True)
            variance = target.var(dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6) ** 0.5
        losses = ((pred - target) ** 2).mean(dim=-1)
        return (losses * mask).sum() / mask.sum()

    return loss


def simmim_loss(task: Task) -> Loss:
    """The steps of mmpretrain's SimMIMHead and PixelReconstructionLoss, one by one."""

    def loss(pred: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        pixels = mask.repeat_interleave(task.patch, 1).repeat_interleave(task.patch, 2)
        pixels = pixels.unsqueeze(1).contiguous()
        images = _normalised(images)
        losses = torch.nn.functional.l1_loss(pred, images, reduction="none")
        return (losses * pixels).sum() / pixels.sum() / images.shape[1]

    return loss


def _normalised(images: Tensor) -> Tensor:
    """What a preprocessor does to a uint8 batch before the model and the loss see it."""
    if images.dtype != torch.uint8:
        return images
    mean, std = (torch.tensor(x, device=images.device).view(-1, 1, 1) for x in (MEAN, STD))
    return (images.float() - mean) / std


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
