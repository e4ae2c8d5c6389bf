"""Checkpoints that no interruption can spoil, and stopping on a signal."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from .files import write_atomically
from .plan import Plan


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with what to do."""


class Diverged(ArithmeticError):
    """Training that came to NaN or infinity.

    Args:
        step: after how many steps it was seen.
        what: what was not finite.
        advice: what to do.
    """

    def __init__(self, step: int, what: str, advice: str = "") -> None:
        super().__init__(f"{what} at step {step}" + (f"; {advice}" if advice else ""))
        self.step = step
        self.what = what


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file and takes its place when whole; reads plain values alone."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_checkpoint(Path(path))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of a run, on the CPU, with `weights_only=True`.

    Raises:
        CheckpointError: if there is none, or it cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its parts raise
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from error
    if "ssl_fast" not in checkpoint:
        raise CheckpointError(f"checkpoint {path} is not one of ssl-fast pretrain")
    return checkpoint


class StopOnSignal(Callback):
    """Ctrl-C and SIGTERM end the run after the step at hand, with a checkpoint.

    A second Ctrl-C ends it at once.

    Attributes:
        stopped: whether the run ended so.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.stopped = False
        self._wanted = False
        self._handlers: dict[int, Any] = {}
        self._step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._ask) for number in self.SIGNALS}

    def _ask(self, number: int, frame: Any) -> None:
        self._wanted = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self._step:
            return  # in the middle of an accumulated batch
        self._step = trainer.global_step
        # One process alone may have got the signal; all must stop at the same step.
        if trainer.strategy.reduce_boolean_decision(self._wanted, all=False):
            self.stopped = trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, *args: Any) -> None:
        self._restore()

    def _restore(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


class Checkpoints(Callback):
    """Saves `last.ckpt` every few steps, at the end and when the run is asked to stop.

    Args:
        plan: of the run.

    Attributes:
        folder: where they go.
    """

    def __init__(self, plan: Plan) -> None:
        self.folder = Path()  # known when the run has its folder
        self._plan = plan
        self._saved = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        step = trainer.global_step
        due = self._plan.checkpoint_due(step) or trainer.should_stop
        if due and step != self._saved:
            self._saved = step
            self.save(trainer, "last")

    def save(self, trainer: Trainer, name: str) -> None:
        """Saves the state after the last step.

        Raises:
            Diverged: if a weight is NaN or infinite; the old checkpoint stays.
        """
        weights = trainer.lightning_module.named_parameters()
        bad = [key for key, value in weights if not value.isfinite().all()]
        if bad:
            step = trainer.global_step
            raise Diverged(step, f"{len(bad)} weights were not finite (the first: {bad[0]})")
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")
