"""The training step of every method, as Lightning calls it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from ..models.base import BaseSelfSupervisor
from ..models.momentum import StepCounter
from ..random import derive_seed
from .methods import METHODS
from .optim import make_optimizer, parameter_groups, warmup_cosine
from .options import PretrainOptions
from .plan import Plan
from .views import augmented_views

# Streams of randomness, each with a seed of its own for every step.
MASKS, LAYERS = 0, 1


class Batches:
    """A loader that tells how long it was waited for, and not its length.

    Lightning would take the batches that a resumed run has left for those of the whole run.

    Attributes:
        waited: seconds spent waiting for batches.
    """

    def __init__(self, loader: Iterable[dict[str, Any]]) -> None:
        self._loader = loader
        self.waited = 0.0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = iter(self._loader)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch


class PretrainModule(LightningModule):
    """A self-supervised model and how it is trained.

    Everything random in a step follows from (seed, step) and the sample, so that a run resumed at
    any step goes on as if it had never stopped.

    Args:
        model: what is trained.
        options, plan: of the run.
        make_loader: (rank, world size, first step) -> the loader of this process.

    Attributes:
        batches: of this process.
        values_of_step: "loss" and what else the model returned beside it, means over the parts of
            the step at hand; detached, on the device.
    """

    batches: Batches
    values_of_step: dict[str, Tensor]

    def __init__(
        self,
        model: BaseSelfSupervisor,
        options: PretrainOptions,
        plan: Plan,
        make_loader: Callable[[int, int, int], Iterable[dict[str, Any]]],
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.plan = plan
        self._make_loader = make_loader
        self._part = 0

    def train_dataloader(self) -> Iterable[dict[str, Any]]:
        trainer = self.trainer
        first_step = trainer.global_step
        loader = self._make_loader(trainer.global_rank, trainer.world_size, first_step)
        self.batches = Batches(loader)
        return self.batches

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout and its like draw from torch's generator: another stream for each rank and part.
        self._part = batch_idx % self.options.accumulate
        keys = (self.trainer.global_step, self.global_rank, self._part)
        torch.manual_seed(derive_seed(self.options.seed, LAYERS, *keys))
        if isinstance(steps := getattr(self.model, "steps", None), StepCounter):
            steps.tell(self.trainer.global_step, self.plan.steps)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        seed = derive_seed(self.options.seed, MASKS, self.trainer.global_step)
        samples = {"sample_ids": batch["sample_ids"], "seed": torch.tensor([seed])}
        inputs = batch["inputs"]
        if "parameters" in batch:
            inputs = augmented_views(inputs, batch["parameters"])
        data = {"inputs": inputs, "data_samples": samples}
        losses = self.model(**self.model.data_preprocessor(data, True), mode="loss")
        loss, values = self.model.parse_losses(losses)
        shares = {name: value / self.options.accumulate for name, value in values.items()}
        if self._part > 0:
            shares = {name: self.values_of_step[name] + share for name, share in shares.items()}
        self.values_of_step = shares
        return loss

    def configure_optimizers(self) -> Any:
        plan, options = self.plan, self.options
        groups = parameter_groups(
            self.model,
            plan.lr,
            plan.weight_decay,
            options.layer_decay,
            METHODS[options.method].constant_lr,
        )
        optimizer = make_optimizer(plan.optimizer, groups, plan.lr, plan.betas)
        schedule = warmup_cosine(
            optimizer, plan.lr, self.options.min_lr, plan.warmup_steps, plan.steps
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ssl_fast"] = {"options": self.options.as_dict()}
