"""What a run writes down, metrics.jsonl and TensorBoard events, and that its loss is finite.

Losses, and what else a model measures in a step, stay on the device and are read every few steps,
all at once: reading each would make the GPU wait.
"""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from .checkpoints import Diverged
from .collapse import CollapseWatch
from .files import write_atomically
from .plan import Plan
from .progress import Progress, memory_in_use
from .sources import Source

LOGGER = logging.getLogger("ssl_fast")


class Log(Callback):
    """Keeps the metrics of a run.

    Args:
        plan: of the run.
        every: steps between two writings.
        progress: shows what was written.
        source: names the images that cannot be read.

    Attributes:
        folder: of the run, set before training begins.
        records: all lines of metrics.jsonl, those before a resumption too.
    """

    def __init__(self, plan: Plan, every: int, progress: Progress, source: Source) -> None:
        self.folder = Path()
        self.records: list[dict[str, Any]] = []
        self._plan = plan
        self._every = every
        self._progress = progress
        self._source = source
        self._unreadable: set[int] = set()
        self._values: list[dict[str, torch.Tensor]] = []
        self._rates: list[float] = []
        self._rate = 0.0
        self._images = 0
        self._step = 0
        self._waited = 0.0
        self._since = 0.0
        self._writer: Any = None
        self._rank: dict[str, float] = {}
        self._watch = CollapseWatch(plan.warmup_steps)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if trainer.is_global_zero:
            # What a killed run wrote after its last checkpoint will be written again.
            self.records = [r for r in read_metrics(self.folder) if r["step"] <= self._step]
            with write_atomically(self.folder / "metrics.jsonl", "w") as file:
                file.writelines(json.dumps(record) + "\n" for record in self.records)
            for record in self.records:
                self._remember_rank(record)
            from torch.utils.tensorboard import SummaryWriter

            events = str(self.folder / "tensorboard")
            self._writer = SummaryWriter(events, purge_step=self._step + 1)
        self.restart_clock(pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Now, since the schedule has moved on when the batch ends.
        groups = trainer.optimizers[0].param_groups
        self._rate = max(group["lr"] for group in groups if not group.get("constant_lr"))
        self._images += len(batch["sample_ids"]) * trainer.world_size
        for index, reason in batch["unreadable"]:
            if index not in self._unreadable:
                self._unreadable.add(index)
                LOGGER.warning("skipped, unreadable: %s: %s", self._source.name(index), reason)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        step = trainer.global_step
        if step != self._step:
            self._step = step
            self._values.append(pl_module.values_of_step)
            self._rates.append(self._rate)
            # Before a checkpoint too: one must not take the place of the last good one.
            due = step % self._every == 0 or self._plan.something_due(step)
            if due or trainer.should_stop:
                self.flush(trainer)

    def flush(self, trainer: Trainer) -> None:
        """Reads the values of the steps since the last time, writes and shows them.

        Raises:
            Diverged: if a loss is NaN or infinite.
        """
        if not self._values:
            return
        values = self._read(trainer)
        module: Any = trainer.lightning_module
        seconds = time.perf_counter() - self._since
        speed = {
            "images_per_s": round(self._images / seconds, 1),
            "data_share": round((module.batches.waited - self._waited) / seconds, 4),
            "memory_mb": round(memory_in_use(trainer.strategy.root_device) / 1e6, 1),
        }
        first = self._step - len(values) + 1
        lines = [
            {"step": step, "epoch": self._plan.epoch(step - 1), **measured, "lr": rate, **speed}
            for step, measured, rate in zip(
                range(first, self._step + 1), values, self._rates, strict=True
            )
        ]
        if trainer.is_global_zero:
            self.write(lines)
            self.watch(lines[-1])
            self._progress.update({**self._rank, **lines[-1]})
        self._values, self._rates = [], []
        self.restart_clock(module)
        for line in lines:
            if not math.isfinite(line["loss"]):
                raise Diverged(line["step"], f"the loss was {line['loss']}")

    def _read(self, trainer: Trainer) -> list[dict[str, float]]:
        """The values of each step, means over the processes: the loss, and what else is finite."""
        names = sorted({name for values in self._values for name in values} - {"loss"})
        names = ["loss", *names]
        missing = torch.full_like(self._values[0]["loss"], math.nan)
        # One tensor, so that it is waited for once.
        table = torch.stack(
            [values.get(name, missing).float() for values in self._values for name in names]
        )
        rows = trainer.strategy.reduce(table.view(-1, len(names)), reduce_op="mean").tolist()
        return [
            {
                name: value
                for name, value in zip(names, row, strict=True)
                if name == "loss" or math.isfinite(value)
            }
            for row in rows
        ]

    def watch(self, record: dict[str, Any]) -> None:
        """Says in words if a record's measures show a collapse. In rank 0 alone."""
        text = self._watch.warning(record)
        if text is not None:
            LOGGER.warning(text)

    def _remember_rank(self, record: dict[str, Any]) -> None:
        if "rankme" in record:
            self._rank = {"rankme": record["rankme"]}

    def restart_clock(self, module: Any) -> None:
        """Measures speed from now on: what came before, such as an evaluation, does not count."""
        self._images = 0
        self._waited = module.batches.waited
        self._since = time.perf_counter()

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Appends lines to metrics.jsonl and TensorBoard; each has a step. In rank 0 alone."""
        self.records += lines
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        for line in lines:
            self._remember_rank(line)
            for name, value in line.items():
                if name != "step":
                    self._writer.add_scalar(name, value, line["step"])

    def mean_loss(self, steps: int) -> float:
        """Mean of the last losses, of this many steps at most."""
        losses = [record["loss"] for record in self.records if "loss" in record][-steps:]
        return sum(losses) / len(losses) if losses else math.inf

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        unreadable: list[Any] = [self._unreadable]
        if trainer.world_size > 1:
            unreadable = [None] * trainer.world_size
            torch.distributed.all_gather_object(unreadable, self._unreadable)
        if trainer.is_global_zero and (count := len(set().union(*unreadable))):
            LOGGER.warning("unreadable files skipped: %d; train.log names them", count)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._writer is not None:
            self._writer.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line that a kill cut off is left out."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
