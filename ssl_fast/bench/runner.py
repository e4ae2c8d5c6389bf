"""The command behind `bench/run.py`: tests, then a worker for each allocator, then a table."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from . import machine, report
from .cases import families, load
from .worker import MARK, Job

TESTS = machine.ROOT / "tests" / "ops"
# torch's profiler, which counts memory, would announce itself at every start.
QUIET = {"KINETO_LOG_LEVEL": "99"}


class Refused(Exception):
    """No numbers will be printed, for this reason."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a family's benchmark.

    Returns:
        0 if every provider that could run was right; 1 if one was not, or the tests fail; 2 for
        arguments that make no sense.
    """
    options = _parse(arguments)
    busy = machine.busy_share(options.device)
    if warning := machine.load_warning(busy, options.device):
        print(warning, file=sys.stderr)
    try:
        jobs = _jobs(options, busy)
        if options.csv:
            report.read_csv(options.csv)  # what cannot be added to is better known now
        run_tests(options.op)
        rows = []
        for case_rows in itertools.chain.from_iterable(map(run_job, jobs)):
            rows += case_rows
            if options.csv and not options.small:
                report.write_csv(options.csv, case_rows)  # at once: a long run may be cut short
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Refused as reason:
        print(f"no numbers: {reason}", file=sys.stderr)
        return 1
    print(report.table(rows))
    failed = [row for row in rows if row.kind == report.FAILED]
    for row in failed:
        print(f"{row.op}, {row.case}, {row.dtype}, {row.provider}: {row.status}", file=sys.stderr)
    return 1 if failed or not rows else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("run.py", description="Benchmarks one family of ops.")
    parser.add_argument("--op", required=True, help=f"a family: {', '.join(families())}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the rounds of one case")
    parser.add_argument("--csv", type=Path, help="file that the results are put into")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--allocator", choices=("both", *machine.ALLOCATORS), default="both")
    parser.add_argument("--providers", default="", help="names with commas between; all if empty")
    parser.add_argument(
        "--small", action="store_true", help="small shapes, to try the harness; writes no CSV"
    )
    return parser.parse_args(arguments)


def _jobs(options: argparse.Namespace, busy: float | None) -> list[Job]:
    """A job for each allocator; on a GPU memory comes from torch's own, so one."""
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"threads is {options.threads}; expected 1 or more")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch sees no CUDA device; accepted is 'cpu'")
    both = options.allocator == "both" and options.device == "cpu"
    wanted = machine.ALLOCATORS if both else (options.allocator.replace("both", "default"),)
    providers = tuple(name.strip() for name in options.providers.split(",") if name.strip())
    known = {p.name: None for case in load(options.op, options.device) for p in case.providers}
    if unknown := [name for name in providers if name not in known]:
        raise ValueError(f"providers are {unknown}; known are {', '.join(map(repr, known))}")
    rest = (options.seconds, options.threads, providers, options.small, busy)
    return [Job(options.op, options.device, allocator, *rest) for allocator in wanted]


def run_tests(family: str) -> None:
    """Runs the family's tests.

    Raises:
        Refused: if one fails, or there are none. Where the tests are not at hand (an installed
            wheel) a line says so, and the comparison with the reference has to do.
    """
    if not TESTS.is_dir():
        print("tests/ops is not here: only the outputs are compared", file=sys.stderr)
        return
    if importlib.util.find_spec("pytest") is None:
        raise Refused("the tests must pass first: `pip install pytest`")
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(TESTS), "-k", family]
    print(f"running the tests of {family}", file=sys.stderr)
    result = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True)
    if result.returncode != 0:
        tail = "\n".join(result.stdout.splitlines()[-15:])
        raise Refused(f"the tests of {family} do not pass:\n{tail}\n{result.stderr[-500:]}")


def run_job(job: Job) -> Iterator[list[report.Row]]:
    """The rows of one case after the other, from a process of its own.

    Raises:
        Refused: if the process dies.
    """
    environment = {**QUIET, **os.environ}
    paths = (str(machine.ROOT), os.environ.get("PYTHONPATH"))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # where this package lies
    if job.threads:
        environment["OMP_NUM_THREADS"] = str(job.threads)
    command = [sys.executable, "-m", "ssl_fast.bench.worker", json.dumps(asdict(job))]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            if line.startswith(MARK):
                yield [report.Row(**fields) for fields in json.loads(line.removeprefix(MARK))]
            else:
                print(line, end="", file=sys.stderr)
    if worker.returncode != 0:
        what = f"allocator {job.allocator!r} ended with status {worker.returncode}"
        raise Refused(f"the worker for {what}; its messages are above")
