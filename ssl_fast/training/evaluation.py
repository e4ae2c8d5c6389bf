"""Evaluations during a run: probes of the features, a panel of pictures, the best weights."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from .checkpoints import Checkpoints
from .collapse import spread
from .evaluate import embed, probe
from .feed import Batches, Feed
from .folder import describe
from .log import Log
from .methods import METHODS
from .panels import save_panel, view_columns
from .plan import Plan
from .plot import plot_loss

LOGGER = logging.getLogger("ssl_fast")


class Evaluation(Callback):
    """Measures, draws and keeps the best weights, every so many steps and before the first.

    The best are those with the highest k-NN accuracy; without labels, with the highest RankMe where
    the model sees several views of an image, else with the least mean loss since the evaluation
    before.

    Args:
        plan: of the run.
        log: takes the accuracies.
        checkpoints: saves `best.ckpt`.
        feed: has the images.
    """

    def __init__(
        self,
        plan: Plan,
        log: Log,
        checkpoints: Checkpoints,
        feed: Feed,
    ) -> None:
        self._plan = plan
        self._log = log
        self._checkpoints = checkpoints
        self._feed = feed
        self._pictures = feed.pictures()
        self._best = -math.inf
        self._step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if self._step == 0:
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step != self._step and self._plan.evaluation_due(step):
            self._evaluate(trainer, pl_module)
        self._step = step

    def _evaluate(self, trainer: Trainer, module: Any) -> None:
        if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            # One process cannot run a model whose parts lie in several.
            name = type(trainer.strategy).__name__
            LOGGER.warning("evaluation is left out: weights are split over processes by %s", name)
            return
        step, score, improved = trainer.global_step, -math.inf, False
        if trainer.is_global_zero:
            training = module.model.training
            module.model.eval()
            with torch.inference_mode(), trainer.precision_plugin.forward_context():
                score = self._measure(module, step)
                self._draw(module, step)
            module.model.train(training)
            improved = step > 0 and score > self._best
        score, improved = trainer.strategy.broadcast((score, improved))
        if improved:
            self._best = score
            self._checkpoints.save(trainer, "best")
        self._log.restart_clock(module)

    def _measure(self, module: Any, step: int) -> float:
        several = bool(METHODS[module.options.method].views)
        if self._feed.labelled:
            train, test = (embedded(module.model, part) for part in self._feed.splits())
            result = probe(train, test)
            record = {"step": step, "knn": result.knn, "linear": result.linear, **spread(train[0])}
            text = f"{describe(record)} on {result.num_test} held-out images"
            score = result.knn
        elif several:
            record = {"step": step, **spread(embedded(module.model, self._feed.sample())[0])}
            score = record.get("rankme", -math.inf)
            text = f"features use {score:.1f} dimensions"
        else:
            return -self._log.mean_loss(self._plan.evaluate_every)
        self._log.write([record])
        LOGGER.info("step %d: %s", step, text)
        if several:
            self._log.watch(record)
        return score

    def _draw(self, module: Any, step: int) -> None:
        ids = torch.arange(len(self._pictures))
        samples = {"sample_ids": ids, "seed": torch.tensor([module.options.seed])}
        images = self._pictures.to(module.device)
        panel = METHODS[module.options.method].panel
        if panel is None:
            views = self._feed.views_of_pictures(self._plan.epoch(step))
            columns = view_columns(self._pictures, views)
        else:
            columns = panel(module.model, images, samples)
        save_panel(self._log.folder / "panels" / f"step-{step:07d}.png", columns)
        losses = [record for record in self._log.records if "loss" in record]
        if losses:
            plot_loss(
                self._log.folder / "loss.png",
                [record["step"] for record in losses],
                [record["loss"] for record in losses],
                [record for record in self._log.records if "knn" in record],
            )


def embedded(model: Any, batches: Batches) -> tuple[Tensor, Tensor]:
    """The backbone's pooled features [M, D] and the labels [M] of batches of uint8 images.

    Args:
        model: with a backbone that has `pooled`.
        batches: of (images, labels).
    """
    device = next(model.parameters()).device

    def features(images: Tensor) -> Tensor:
        return model.backbone.pooled(model.normalized(images.to(device)))

    return embed(features, batches)
