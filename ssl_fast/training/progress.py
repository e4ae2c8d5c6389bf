"""What a run shows while it runs: a banner, and one live line."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from .._dispatch import OPS, explain
from .._version import __version__
from .plan import Plan

PLAIN_SECONDS = 10.0  # between two lines where no live line can be shown


class Progress:
    """One line with step, loss, speed, share of waiting, memory and time left.

    Where they are measured, also the spread of a batch's embeddings and the features' rank, by
    which a collapse is seen: "std 0.98, rank 57".

    In a terminal it is a live line; elsewhere (a file, a job's log) a plain line every 10 seconds.

    Args:
        console: where it is shown.
        plan: of the run.
    """

    def __init__(self, console: Console, plan: Plan) -> None:
        self.console = console
        self._plan = plan
        self._bar: Bar | None = None
        self._shown = -PLAIN_SECONDS
        self._began = time.perf_counter()
        self._first = 0

    def start(self, step: int) -> None:
        """Begins at a step."""
        self._began, self._first = time.perf_counter(), step
        if not self.console.is_terminal:
            return
        self._bar = Bar(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._bar.add_task("", total=self._plan.steps, completed=step)
        self._bar.start()

    def update(self, record: dict[str, Any]) -> None:
        """Shows a line of metrics.jsonl."""
        text = (
            f"epoch {record['epoch'] + 1}/{self._plan.epochs}  loss {record['loss']:.4g}  "
            f"{_spread(record)}{record['images_per_s']:.0f} images/s  "
            f"data {record['data_share']:.0%}  {record['memory_mb']:.0f} MB"
        )
        step = record["step"]
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, description=text)
            return
        now = time.perf_counter()
        if now - self._shown < PLAIN_SECONDS and step != self._plan.steps:
            return
        self._shown = now
        left = (now - self._began) / max(1, step - self._first) * (self._plan.steps - step)
        minutes, seconds = divmod(round(left), 60)
        line = f"step {step}/{self._plan.steps}  {text}  left {minutes}:{seconds:02}"
        self.console.print(line, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Ends the live line, which stays as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _spread(record: dict[str, Any]) -> str:
    found = [
        f"{name} {record[key]:{form}}"
        for name, key, form in (("std", "feature_std", ".2f"), ("rank", "rankme", ".0f"))
        if key in record
    ]
    return ", ".join(found) + "  " if found else ""


def memory_in_use(device: torch.device) -> int:
    """Peak memory in bytes: of torch on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes


def banner(device: torch.device, world_size: int) -> Iterator[str]:
    """Lines that say what runs: versions, device, and who serves each op."""
    import lightning
    import timm

    versions = (
        f"ssl_fast {__version__}, torch {torch.__version__}, lightning {lightning.__version__}, "
        f"timm {timm.__version__}, Python {platform.python_version()}"
    )
    yield versions
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type} ({torch.get_num_threads()} threads)"
    yield f"device: {name}" + (f", {world_size} processes" if world_size > 1 else "")
    known = device.type if device.type in ("cpu", "cuda") else "cpu"
    yield "ops: " + ", ".join(f"{op} {explain(op, device=known).owner}" for op in OPS)
