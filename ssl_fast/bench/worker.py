"""What measures in a benchmark run: all cases under one allocator. Started by `runner`.

The allocator's thresholds must be set before anything large is allocated, hence a process for each.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import machine
from .case import Case, Skipped
from .cases import load
from .ceilings import CEILINGS
from .harness import run_case
from .providers import COMPILED, import_peers
from .report import Row
from .truths import Truths

MARK = "ssl_fast rows: "


@dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Attributes:
        families: of ops, in this order.
        seconds: for the rounds of one case; of growth, which shows in the order of magnitude, a
            third.
        threads: for torch on the CPU; None for torch's own choice.
        providers: names of those wanted; empty for all.
        selections: which cases, as `cases.load` has it.
        small: shapes that only try the harness.
        compiled: whether the reference under torch.compile takes part.
        busy: what other work took before the start.
        truths: folder of truths that the processes of a run share; empty for none.
    """

    families: tuple[str, ...]
    device: str
    allocator: str
    seconds: float
    threads: int | None = None
    providers: tuple[str, ...] = ()
    selections: tuple[str, ...] = ("all",)
    small: bool = False
    compiled: bool = True
    busy: float | None = None
    truths: str = ""


def run(job: Job) -> Iterator[list[Row]]:
    """The rows of one case after the other."""
    try:
        machine.use_allocator(job.allocator)
    except Skipped as reason:
        print(f"allocator {job.allocator!r} skipped: {reason}", file=sys.stderr)
        return
    if job.threads:
        torch.set_num_threads(job.threads)
    torch.backends.cudnn.allow_tf32 = False  # as for all other products: convolutions are compared
    about: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "machine": machine.name_of(job.device),
        "commit": machine.commit(),
        "date": machine.today(),
    }
    truths = Truths(Path(job.truths) if job.truths else None)
    measured: dict[tuple[str, str, str], list[Row]] = {}
    for selection, case in _cases(job):
        case = _with_providers(case, job)
        shape = (case.op, case.shape, case.dtype)
        if selection == "growth" and shape in measured:
            yield _as_growth(measured[shape], case)
            continue
        seconds = job.seconds / 3 if selection == "growth" else job.seconds
        print(f"{case.op}, {case.name}, {case.dtype}, {job.allocator}", file=sys.stderr)
        busy = job.busy
        if job.device == "cpu":  # others may have started meanwhile; a GPU would show our own work
            busy = machine.busy_share(job.device)
            if warning := machine.load_warning(busy, job.device):
                print(warning, file=sys.stderr)
        rows = run_case(case, job.device, job.allocator, seconds, truths)
        measured[shape] = [replace(row, busy=busy, **about) for row in rows]
        yield measured[shape]


def _as_growth(rows: list[Row], case: Case) -> list[Row]:
    """What was measured for the summary as a point of a case of growth of the same shape."""
    wanted = {*(provider.name for provider in case.providers), *CEILINGS}
    about: dict[str, Any] = {
        "case": case.name,
        "theirs": case.theirs,
        "headline": case.headline,
        "axis": case.axis,
        "size": case.size,
    }
    return [replace(row, **about) for row in rows if row.provider in wanted]


def _cases(job: Job) -> Iterator[tuple[str, Case]]:
    for family in job.families:
        for selection in job.selections:
            for case in load(family, job.device, job.small, selection):
                yield selection, case


def _with_providers(case: Case, job: Job) -> Case:
    chosen = tuple(
        provider
        for provider in case.providers
        if provider.name in (job.providers or (provider.name,))
        and (job.compiled or provider.name != COMPILED)
    )
    return replace(case, providers=chosen)


def main(words: str) -> None:
    """Takes a job as JSON, prints a line of JSON for each case, marked among what others print.

    On the CPU every family has a process of its own, forked when all libraries have been imported:
    who comes later finds no heap that others have left, and waits for no import.
    """
    fields = json.loads(words)
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    job = Job(**{**fields, **lists})
    begin = time.monotonic()
    if apart := job.device == "cpu" and len(job.families) > 1:
        import_peers()
    for number, family in enumerate(job.families, 1):
        where = f"{job.allocator} allocator, {number}/{len(job.families)}"
        minutes = (time.monotonic() - begin) / 60
        print(f"[{where}, {minutes:.1f} min] {family}", file=sys.stderr, flush=True)
        (_forked if apart else _print_rows)(replace(job, families=(family,)))


def _print_rows(job: Job) -> None:
    for rows in run(job):
        print(MARK + json.dumps([asdict(row) for row in rows]), flush=True)


def _forked(job: Job) -> None:
    """`_print_rows` in a copy of this process, which ends with the copy's status if that is one."""
    sys.stdout.flush()
    process = multiprocessing.get_context("fork").Process(target=_print_rows, args=(job,))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{job.families[0]} ended with status {process.exitcode}")


if __name__ == "__main__":
    main(*sys.argv[1:])
