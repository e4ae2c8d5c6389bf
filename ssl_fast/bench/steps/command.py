"""The command `ssl-fast bench steps`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import machine, report, runner
from ..case import Skipped
from .entrants import PROVIDERS
from .measure import measure
from .rows import COLUMNS, KEY, TITLE, StepRow
from .sizes import METHODS


def main(words: Sequence[str]) -> int:
    """Measures and tells; 1 if a provider's first loss was wrong, or it failed otherwise."""
    options = _parse(words)
    methods = _known("methods", options.methods, METHODS) or list(METHODS)
    providers = _known("providers", options.providers, PROVIDERS)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch sees no CUDA device; accepted is 'cpu'")
    for name, value in runner.QUIET.items():
        os.environ.setdefault(name, value)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    files = [] if options.small else [options.out / "steps.csv"]
    if options.csv and not options.small:
        files.append(options.csv)
    for file in files:
        report.read_csv(file, StepRow, KEY)  # what cannot be added to is better known now
    if options.device == "cpu":
        try:
            machine.use_allocator("tuned")  # as `ssl-fast pretrain` does
        except Skipped as reason:
            print(reason, file=sys.stderr)
    precision = options.precision or ("bf16" if options.device == "cuda" else "fp32")
    about: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "machine": machine.name_of(options.device),
        "commit": machine.commit(),
        "date": machine.today(),
    }
    rows: list[StepRow] = []
    begin, busy = time.monotonic(), None
    for number, name in enumerate(methods, 1):
        minutes = (time.monotonic() - begin) / 60
        head = f"[{number}/{len(methods)}, {minutes:.1f} min] steps of {name}"
        print(head, file=sys.stderr, flush=True)
        if options.device == "cpu" or number == 1:  # a GPU would show the last method's work
            busy = machine.busy_share(options.device)
        if warning := machine.load_warning(busy, options.device):
            print(warning, file=sys.stderr)
        found = measure(
            name, METHODS[name], options.device, precision, options.seconds, options.small,
            providers,
        )  # fmt: skip
        rows += [replace(row, busy=busy, **about) for row in found]
        for file in files:  # at once: a long run may be cut short
            report.write_csv(file, rows[-len(found) :], StepRow, KEY)
    print(f"{TITLE}\n\n{report.plain_table(rows, COLUMNS)}")
    return 1 if any(row.kind == report.FAILED for row in rows) else 0


def _known(what: str, text: str, known: Mapping[str, Any]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{what} are {unknown}; known are {', '.join(map(repr, known))}")
    return names


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "ssl-fast bench steps",
        description="Measures whole training steps, ours and those of other libraries.",
    )
    parser.add_argument("--methods", default="", help="names with commas between; all if empty")
    parser.add_argument("--providers", default="", help="names with commas between; all if empty")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), help="bf16 on a GPU, fp32 on a CPU if not given"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="for the rounds of one method")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of steps.csv")
    parser.add_argument("--csv", type=Path, help="file that the results are also put into")
    parser.add_argument(
        "--small", action="store_true", help="tiny models, to try the command; writes no file"
    )
    return parser.parse_args(words)
