"""Who takes part in the comparison of whole steps."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...models.base import BaseSelfSupervisor
from ..providers import peer
from .sizes import Method, Size, build
from .spans import Span, of_our_ops


@dataclass
class Task:
    """What all entrants of a method have in common.

    Attributes:
        name: of the method.
        model: ours, with the weights that all begin with; nobody trains it.
        images: [N, 3, S, S] uint8, or two views of them.
        ids: [N] int64, the samples' numbers.
        mask: what the model's `sample_mask` draws with the seed 0; None without masks.
    """

    name: str
    method: Method
    size: Size
    device: str
    model: BaseSelfSupervisor
    images: Any
    ids: Tensor
    mask: Any

    def seed(self, value: int) -> Tensor:
        return torch.tensor([value], device=self.device)


def make_task(name: str, method: Method, size: Size, device: str) -> Task:
    """Random weights and random images, the same at each call."""
    torch.manual_seed(0)
    model = build(method, size).to(device)
    shape = (size.batch, 3, size.image, size.image)
    views = [torch.randint(0, 256, shape, dtype=torch.uint8).to(device) for _ in range(2)]
    ids = torch.arange(size.batch, device=device)
    task = Task(name, method, size, device, model, views if method.views else views[0], ids, None)
    if not method.views:
        grid = model.backbone.grid
        task.mask = model.sample_mask(
            size.batch, grid, seed=task.seed(0), sample_ids=ids, device=device
        )
    return task


@dataclass
class Entrant:
    """Somebody who trains the method.

    Attributes:
        model: whose parameters are trained.
        loss: of the batch, as in training.
        compared_loss: of the batch with the masks of the task.
        spans: what the hot paths are in it.
        backend: the `ssl_fast.backend` in force; None for other people's.
        packages: distributions whose versions matter.
        tolerance: by what share loss and norm of the gradient may differ from those of the
            references.
        note: what is not in the step, or is done otherwise.
    """

    model: nn.Module
    loss: Callable[[], Tensor]
    compared_loss: Callable[[], Tensor]
    spans: Sequence[Span]
    backend: str | None = None
    packages: tuple[str, ...] = ()
    tolerance: float = 1e-4
    note: str = ""
    samples: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)


def ours(task: Task, backend: str | None = None) -> Entrant:
    """The model of `ssl_fast.models` as users train it: it draws its masks in the step."""
    model = copy.deepcopy(task.model)
    seeds = itertools.count()

    def loss(seed: int) -> Tensor:
        samples = {"seed": task.seed(seed), "sample_ids": task.ids}
        return model(task.images, samples, mode="loss")["loss"]

    return Entrant(
        model,
        lambda: loss(next(seeds)),
        lambda: loss(0),
        of_our_ops(),
        backend,
        ("timm",),
    )


def reference_ops(task: Task) -> Entrant:
    """The same model with the plain torch references of all ops."""
    return ours(task, "reference")


def mmpretrain(task: Task) -> Entrant:
    """mmpretrain's model of the same size, from its own config."""
    return peer("mmpretrain_models").entrant(task)


def lightly(task: Task) -> Entrant:
    """lightly's projection head and loss over torchvision's backbone, as in its examples."""
    return peer("lightly_models").entrant(task)


# The references come first: the others are compared with them.
PROVIDERS: dict[str, Callable[[Task], Entrant]] = {
    "reference ops": reference_ops,
    "ssl_fast": ours,
    "mmpretrain": mmpretrain,
    "lightly": lightly,
}


def providers_of(method: str) -> dict[str, Callable[[Task], Entrant]]:
    """Those who have the method; lightly's other examples compute other losses."""
    return {
        name: prepare
        for name, prepare in PROVIDERS.items()
        if name != "lightly" or method in ("simclr", "barlowtwins")
    }
