"""The command behind `bench/step.py`: a whole training step with our kernels and with references.

How much of a step the kernels are is what decides how much faster training gets: time and peak
memory of forward, backward and AdamW, and the share of them that masks, targets and loss take,
with the kernels that serve and with the plain torch references of the same ops.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from .. import backend
from .._dispatch import OPS
from ..models import MODELS
from ..models.base import BaseSelfSupervisor
from . import machine
from .memory import peak_extra_mb
from .timers import clock_for, quantiles

PROVIDERS = ("reference ops", "ssl_fast")
SIZE = 224
ROUNDS = 3


@dataclass
class StepRow:
    """One model with one kind of ops.

    Attributes:
        model, batch, precision, provider, device: what ran.
        median_ms, p20_ms, p80_ms: of a step.
        images_per_s: from the median.
        ops_ms, ops_share: time in ops of ssl_fast (masks, embedding of visible patches, targets,
            restoring, loss, and their gradients), profiled in a step of its own, and its share.
        peak_mb: peak of torch's allocator in a step, beyond the weights and AdamW's state.
    """

    model: str
    batch: int
    precision: str
    provider: str
    device: str
    median_ms: float
    p20_ms: float
    p80_ms: float
    images_per_s: float
    ops_ms: float
    ops_share: float
    peak_mb: float
    threads: int
    machine: str
    versions: str
    commit: str
    date: str


def build(method: str, small: bool) -> BaseSelfSupervisor:
    """A ViT-S of the method at 224 pixels; small: two blocks."""
    from ..training.methods import METHODS

    options = {"depth": 2} if small else {}
    config = METHODS[method].config(
        "vit_small_patch16_224", SIZE, backbone_options=options,
        **({"decoder_depth": 1} if small and method == "mae" else {}),
    )  # fmt: skip
    statistics = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    return MODELS.build({**config, "data_preprocessor": {**statistics, "keep_uint8": True}})


def step_of(
    model: BaseSelfSupervisor, batch: int, precision: str, device: str
) -> Callable[[], Any]:
    """A function that trains one step on random uint8 images; another seed at each call."""
    model.to(device)
    images = torch.randint(0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8, device=device)
    ids = torch.arange(batch, device=device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=device == "cuda")
    seeds = iter(range(2**62))

    def step() -> None:
        samples = {"seed": torch.tensor([next(seeds)], device=device), "sample_ids": ids}
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(images, samples, mode="loss")["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def ops_ms(step: Callable[[], Any], device: str) -> float:
    """Milliseconds of a step inside ops of ssl_fast."""
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        step()
    names = {f"ssl_fast::{name}" for name in OPS}
    events = [event for event in profiler.key_averages() if event.key in names]
    if device == "cuda":
        return sum(event.device_time_total for event in events) / 1e3
    return sum(event.cpu_time_total for event in events) / 1e3


def measure(
    method: str, batch: int, precision: str, device: str, seconds: float, small: bool = False
) -> list[StepRow]:
    """Both kinds of ops in turns: a row each."""
    torch.manual_seed(0)
    step = step_of(build(method, small), batch, precision, device)
    clock = clock_for(device)
    samples: dict[str, list[float]] = {name: [] for name in PROVIDERS}
    inside: dict[str, list[float]] = {name: [] for name in PROVIDERS}
    peak: dict[str, float] = {}

    def active(name: str) -> Any:
        return backend("reference") if name == PROVIDERS[0] else contextlib.nullcontext()

    for name in PROVIDERS:
        with active(name):
            step()  # warm
            peak[name] = peak_extra_mb(step, device)
    end = time.monotonic() + seconds
    while min(map(len, samples.values())) < ROUNDS or time.monotonic() < end:
        for name in PROVIDERS:
            with active(name):
                samples[name].append(clock.elapsed_ms(step))
                inside[name].append(ops_ms(step, device))
    rows = []
    for name in PROVIDERS:
        median, low, high = quantiles(samples[name])
        spent = quantiles(inside[name])[0]
        rows.append(
            StepRow(
                f"{method} ViT-S",
                batch,
                precision,
                name,
                device,
                median,
                low,
                high,
                1e3 * batch / median,
                spent,
                spent / median,
                peak[name],
                torch.get_num_threads(),
                machine.name_of(device),
                machine.versions(("timm",)),
                machine.commit(),
                datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            )
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table; with --csv also writes the file."""
    parser = argparse.ArgumentParser("step.py", description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="mae,maskfeat", help="names with commas between")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each method")
    parser.add_argument("--csv", type=Path, help="file that the rows are appended to")
    parser.add_argument("--small", action="store_true", help="two blocks, to try the command")
    options = parser.parse_args(arguments)
    if options.device == "cpu":
        machine.use_allocator("tuned")  # as `ssl-fast pretrain` does
    rows: list[StepRow] = []
    for method in options.methods.split(","):
        rows += measure(
            method, options.batch, options.precision, options.device, options.seconds, options.small
        )
    columns = [field.name for field in fields(StepRow)]
    for row in rows:
        print(
            f"{row.model}, batch {row.batch}, {row.precision}, {row.provider}: "
            f"{row.median_ms:.0f} ms a step ({row.p20_ms:.0f} to {row.p80_ms:.0f}), "
            f"{row.images_per_s:.1f} images/s, ops {row.ops_ms:.1f} ms ({row.ops_share:.1%}), "
            f"peak {row.peak_mb:.0f} MB"
        )
    if options.csv and not options.small:
        new = not options.csv.is_file()
        with options.csv.open("a", newline="") as file:
            writer = csv.DictWriter(file, columns)
            if new:
                writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    return 0
