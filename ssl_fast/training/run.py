"""A run's folder and words: the banner, where its files are, what to do when it stops."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from .checkpoints import Checkpoints
from .export import snippet
from .files import remove_leftovers
from .folder import CHECKPOINTS, LAST, close_log, describe, new_folder, open_log, write_config
from .log import Log
from .options import PretrainOptions
from .plan import Plan
from .progress import Progress, banner

LOGGER = logging.getLogger("ssl_fast")


class Run(Callback):
    """The first callback: gives the others their folder once all processes are there.

    Args:
        options, plan: of the run.
        folder: of the run that is resumed; None makes a new one.
        data: one line on the images.

    Attributes:
        folder: None until training begins.
    """

    def __init__(
        self, options: PretrainOptions, plan: Plan, folder: Path | None, data: str
    ) -> None:
        self.options = options
        self.plan = plan
        self.folder = folder
        self._data = data
        self._handlers: list[logging.Handler] = []

    def attach(
        self, console: Console, progress: Progress, log: Log, checkpoints: Checkpoints
    ) -> None:
        """Tells the run who needs its folder, and where it speaks."""
        self._console, self._progress = console, progress
        self._log, self._checkpoints = log, checkpoints

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = self.folder
        if folder is None and trainer.is_global_zero:
            folder = new_folder(Path(self.options.output or f"runs/{self.options.method}"))
        # One process makes the folder; the others, which torchrun starts at once, hear of it.
        self.folder = Path(trainer.strategy.broadcast(str(folder)))
        self._log.folder = self.folder
        self._checkpoints.folder = self.folder / CHECKPOINTS
        self._console.quiet = not trainer.is_global_zero
        if trainer.is_global_zero:
            for name in (CHECKPOINTS, "panels"):
                (self.folder / name).mkdir(exist_ok=True)
                remove_leftovers(self.folder / name)
            write_config(self.folder, dataclasses.replace(self.options, resume=None))
        # All processes write to train.log: each names the files that it could not read.
        self._handlers = open_log(self.folder, self._console)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        plan, step = self.plan, trainer.global_step
        for line in banner(trainer.strategy.root_device, trainer.world_size):
            LOGGER.info(line)
        LOGGER.info("data: %s", self._data)
        LOGGER.info(
            "%s: %s, %d steps of %d images in %d epoch%s, learning rate %.3g",
            self.options.method, plan.backbone, plan.steps, self.options.batch_size,
            plan.epochs, "" if plan.epochs == 1 else "s", plan.lr,
        )  # fmt: skip
        LOGGER.info("%s in %s", f"goes on at step {step}" if step else "files", self.folder)
        self._progress.start(step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._progress.stop()

    def advice(self, step: int) -> str:
        """What to do about a loss that is not finite."""
        assert self.folder is not None
        last = self.folder / CHECKPOINTS / LAST
        kept = (
            f"the last good checkpoint is {last}"
            if last.is_file()
            else "no checkpoint was saved before"
        )
        return (
            f"{kept}. Likely causes: a learning rate that is too high (now {self.plan.lr:.3g}: "
            f"lower lr or base_lr, or raise warmup_steps), gradients without a limit (clip_grad), "
            f"or bf16 (precision fp32)"
        )

    def summary(self, result: Any) -> None:
        """Says how the run ended and what to do with it."""
        if not result.finished:
            LOGGER.info(
                "stopped at step %d of %d, and saved; to go on:", result.step, self.plan.steps
            )
            LOGGER.info("  ssl-fast pretrain --resume %s", shlex.quote(str(result.folder)))
            return
        if result.after is not None:
            LOGGER.info("before: %s", describe(result.before))
            LOGGER.info("after:  %s", describe(result.after))
        LOGGER.info("done: loss %.4g at step %d", result.loss, result.step)
        LOGGER.info("metrics, pictures and checkpoints: %s", result.folder)
        LOGGER.info("backbone: %s; to load it:\n", result.folder / "export")
        LOGGER.info("%s", snippet(result.folder / "export"))

    def close(self) -> None:
        """Ends train.log."""
        close_log(self._handlers)
