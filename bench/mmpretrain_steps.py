"""Whole training steps of mmpretrain's algorithms, with the integration and without.

    python bench/mmpretrain_steps.py                          # all; writes a CSV for this machine
    python bench/mmpretrain_steps.py --algorithms MAE,SimCLR
    python bench/mmpretrain_steps.py --table                  # the CSV into docs/mmpretrain.md

A step is mmengine's `train_step` on a batch of uint8 images: preprocessing, forward, backward and
the optimiser of mmpretrain's config. The same model takes the steps with and without the
integration in turns. No number is written unless the losses of two steps agree.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout, installed or not

import torch

from ssl_fast.bench import machine
from ssl_fast.bench.memory import peak_extra_mb
from ssl_fast.bench.timers import clock_for, quantiles

RESULTS = machine.ROOT / "bench" / "results"
DOCS = machine.ROOT / "docs" / "mmpretrain.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
ROUNDS = 3
LOSS_TOLERANCE = 1e-3


@dataclass
class StepRow:
    """One algorithm.

    Attributes:
        algorithm, model, batch, device: what ran; the model in words.
        replaced: what took the place of mmpretrain's functions in a step, "Class.method: gain"
            with semicolons between; empty for nothing.
        before_ms, after_ms: median of a step without and with the integration.
        before_p20_ms, ..., after_p80_ms: of the same samples.
        masks_before_ms, masks_after_ms: of the masks of a batch, which the config makes in the data
            loader; empty where it makes none.
        before_mb, after_mb: peak of torch's allocator in a step, beyond weights and optimiser.
        loss_before, loss_after: of the second step.
        rounds: samples of each.
    """

    algorithm: str
    model: str
    batch: int
    device: str
    replaced: str
    before_ms: float
    before_p20_ms: float
    before_p80_ms: float
    after_ms: float
    after_p20_ms: float
    after_p80_ms: float
    masks_before_ms: float | None
    masks_after_ms: float | None
    before_mb: float
    after_mb: float
    loss_before: float
    loss_after: float
    rounds: int
    threads: int
    machine: str
    versions: str
    commit: str
    date: str


class Differs(Exception):
    """With the integration the losses are others."""


def measure(name: str, kind: str, device: str, seconds: float) -> StepRow:
    """One algorithm at its size "bench" or "small", for about so many seconds."""
    from tests.integrations.mmpretrain import building
    from tests.integrations.mmpretrain.algorithms import ALGORITHMS

    end = time.monotonic() + seconds
    algorithm = ALGORITHMS[name]
    size = getattr(algorithm, kind)
    batches = [_on(device, building.batch_of(name, size, seed)) for seed in range(2)]
    losses: dict[bool, float] = {}
    switch = Switch()
    for after in (False, True):
        switch(after)
        torch.manual_seed(0)
        model = building.build(name, size).to(device)
        optimizer = building.optimizer_of(name, size, model)
        for group in optimizer.optimizer.param_groups:
            group["lr"] *= 0.01  # those of the configs follow a warm-up
        for batch in batches:
            losses[after] = float(model.train_step(batch, optimizer)["loss"])
    if not abs(losses[True] - losses[False]) <= LOSS_TOLERANCE * abs(losses[False]):
        raise Differs(f"losses of the second step are {losses[False]:.6g} and {losses[True]:.6g}")

    def step() -> None:
        model.train_step(batches[0], optimizer)

    masks = building.masks_of(name, size)
    clock = clock_for(device)
    samples: dict[bool, list[float]] = defaultdict(list)
    mask_samples: dict[bool, list[float]] = defaultdict(list)
    peak: dict[bool, float] = {}
    gains = replaced_in(step) | replaced_in(masks)
    for after in (False, True):
        switch(after)
        peak[after] = peak_extra_mb(step, device)
    while len(samples[True]) < ROUNDS or time.monotonic() < end:
        for after in (False, True):
            switch(after)
            samples[after].append(clock.elapsed_ms(step))
            mask_samples[after].append(clock.elapsed_ms(masks))
    made = building.mask_step_of(name, size) is not None
    return StepRow(
        name,
        algorithm.model,
        size.batch,
        device,
        "; ".join(f"{place}: {gain}" for place, gain in gains.items()),
        *quantiles(samples[False]),
        *quantiles(samples[True]),
        quantiles(mask_samples[False])[0] if made else None,
        quantiles(mask_samples[True])[0] if made else None,
        peak[False],
        peak[True],
        losses[False],
        losses[True],
        len(samples[True]),
        torch.get_num_threads(),
        machine.name_of(device),
        machine.versions(("mmpretrain", "mmengine", "mmcv-lite")),
        machine.commit(),
        datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    )


class Switch:
    """The integration on and off, without the time that `enable` needs to read all sources.

    It is on before and to be left on.
    """

    def __init__(self) -> None:
        from ssl_fast.integrations.mmpretrain._patches import patches

        self._places = [(owner, name, original) for owner, name, original, _ in patches._saved]
        self._ours = [vars(owner)[name] for owner, name, _ in self._places]

    def __call__(self, on: bool) -> None:
        for (owner, name, original), ours in zip(self._places, self._ours, strict=True):
            setattr(owner, name, ours if on else original)


def replaced_in(function: Callable[[], Any]) -> dict[str, str]:
    """Gains by name of what serves during a call in place of mmpretrain's own functions.

    What hands all its calls on to the original does not serve.
    """
    from ssl_fast.integrations.mmpretrain._patches import patches

    ours, theirs = defaultdict(list), {}
    for patch in patches._patches:
        ours[inspect.unwrap(patch.replacement).__code__].append(patch)
        lies_there = patch.place.get()
        lies_there = getattr(lies_there, "__func__", lies_there)
        theirs[inspect.unwrap(lies_there).__code__] = patch.place.path
    served: Counter[str] = Counter()
    gains: dict[str, str] = {}

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        if place := theirs.get(frame.f_code):
            served[place] -= 1
        for patch in ours.get(frame.f_code, ()):
            owner, this = patch.place.owner(), frame.f_locals.get("self")
            if not isinstance(owner, type) or this is None or isinstance(this, owner):
                served[patch.place.path] += 1  # a replacement may be that of several classes
                gains[patch.place.path] = patch.gain

    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return {place.partition(":")[2]: gain for place, gain in gains.items() if served[place] > 0}


def _on(device: str, batch: dict[str, Any]) -> dict[str, Any]:
    inputs = batch["inputs"]
    moved = [x.to(device) for x in inputs] if isinstance(inputs, list) else inputs.to(device)
    return {**batch, "inputs": moved}


def read(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a file by algorithm."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {row["algorithm"]: row for row in csv.DictReader(file)}


def write(path: Path, row: StepRow) -> None:
    """Puts a row in the place of that of the same algorithm."""
    rows: dict[str, Any] = read(path)
    rows[row.algorithm] = asdict(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(StepRow)])
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows, key=str.lower))


def table(rows: dict[str, dict[str, str]]) -> str:
    """Markdown of a file's rows."""
    lines = [
        "| algorithm (model) | what is accelerated | step | peak memory |",
        "|---|---|---|---|",
    ]
    for name, row in rows.items():
        replaced = [each.partition(": ") for each in row["replaced"].split("; ") if each]
        gains = list(dict.fromkeys(f"`{place}`: {gain}" for place, _, gain in replaced))
        if row["masks_before_ms"] and any("MaskGenerator" in each for each in gains):
            before, after = (float(row[f"masks_{key}_ms"]) for key in ("before", "after"))
            gains.append(f"masks of a batch in the loader {before:.2f} -> {after:.2f} ms")
        lines.append(
            f"| {name} ({row['model']}) | {'; '.join(gains) or 'nothing'} "
            f"| {_change(row, 'ms')} | {_change(row, 'mb')} |"
        )
    first = next(iter(rows.values()))
    where = f"{first['machine']}, {first['threads']} threads; {first['versions']}; {first['date']}"
    return "\n".join([*lines, "", f"Measured on {where}."])


def _change(row: dict[str, str], unit: str) -> str:
    before, after = float(row[f"before_{unit}"]), float(row[f"after_{unit}"])
    word = "ms" if unit == "ms" else "MB"
    if not row["replaced"]:  # what differs is noise
        return f"{before:.0f} {word}"
    return f"{before:.0f} -> {after:.0f} {word} ({after / before - 1:+.0%})"


def write_docs(path: Path) -> None:
    """Replaces what stands between the marks in docs/mmpretrain.md."""
    text = DOCS.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    DOCS.write_text(f"{head}{BEGIN}\n\n{table(read(path))}\n\n{END}{tail}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; 1 if an algorithm failed."""
    here = f"mmpretrain-steps-{machine.slug(machine.name_of('cpu'))}.csv"
    parser = argparse.ArgumentParser("mmpretrain_steps.py", description=__doc__.splitlines()[0])
    parser.add_argument("--algorithms", help="names with commas between; all if left out")
    parser.add_argument("--seconds", type=float, default=840.0, help="of the whole run")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--csv", type=Path, default=RESULTS / here)
    parser.add_argument("--small", action="store_true", help="tiny models, no file: to try it")
    parser.add_argument(
        "--table", action="store_true", help=f"write the CSV's table to {DOCS.name}"
    )
    options = parser.parse_args(arguments)
    if options.table:
        write_docs(options.csv)
        return 0
    from ssl_fast.integrations import mmpretrain  # noqa: F401
    from tests.integrations.mmpretrain.algorithms import ALGORITHMS

    known = [name for name, each in ALGORITHMS.items() if options.small or each.bench]
    names = options.algorithms.split(",") if options.algorithms else known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no algorithms {', '.join(unknown)}; known are {', '.join(known)}")
    print(machine.load_warning(machine.busy_share(options.device), options.device))
    end, failed = time.monotonic() + options.seconds, 0
    for index, name in enumerate(names):
        share = (end - time.monotonic()) / (len(names) - index)
        if share <= 0:
            failed += 1
            print(f"{name}: left out, the time is over", flush=True)
            continue
        try:
            row = measure(name, "small" if options.small else "bench", options.device, share)
        except Exception as error:
            failed += 1
            print(f"{name}: failed: {type(error).__name__}: {error}", flush=True)
            continue
        print(
            f"{name}: {row.before_ms:.1f} -> {row.after_ms:.1f} ms, {row.before_mb:.1f} -> "
            f"{row.after_mb:.1f} MB, {row.rounds} rounds, {row.replaced or 'nothing'}",
            flush=True,
        )
        if not options.small:
            write(options.csv, row)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
