"""Runs the benchmark of ops: their tests, then a worker for each allocator, then what it found."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from .._dispatch import OPS, native
from . import machine, report
from .worker import MARK, Job

TESTS = machine.ROOT / "tests" / "ops"
FILES = {"cpu": "test_every_op.py", "cuda": "test_every_op_on_gpu.py"}
# torch's profiler, which counts memory, would announce itself at every start.
QUIET = {"KINETO_LOG_LEVEL": "99"}


class Refused(Exception):
    """No numbers will be printed, for this reason."""


def run_tests(families: Sequence[str], device: str) -> None:
    """Runs the tests of the kernels that are going to be timed: values and gradients.

    Raises:
        Refused: if one fails, or there are none. Where the tests are not at hand (an installed
            wheel) a line says so, and the comparison with the reference has to do.
    """
    tests = TESTS / FILES[device]
    if not tests.is_file():
        print("the tests are not here: only the outputs are compared", file=sys.stderr)
        return
    if importlib.util.find_spec("pytest") is None:
        raise Refused("the tests must pass first: `pip install pytest`")
    wanted = " or ".join(f"{name}-" for name in OPS if family_of(name) in families)
    who = f"compiled-{native.instruction_set() or 'none'}"
    if device == "cuda":
        who = "(compiled or triton)"
    expression = f"(test_truth or test_true_gradients) and {who} and ({wanted})"
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(tests), "-k", expression]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(os.cpu_count() or 1)]
    print(f"running the tests of {', '.join(families)}", file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=machine.ROOT, capture_output=True, text=True, env=environment
    )
    if result.returncode != 0:
        tail = "\n".join(result.stdout.splitlines()[-15:])
        raise Refused(f"the tests do not pass:\n{tail}\n{result.stderr[-500:]}")


def family_of(op: str) -> str:
    """The folder of an op: `ssl_fast.ops.<family>`."""
    return OPS[op].reference.__module__.split(".")[2]


def run_job(job: Job) -> Iterator[list[report.Row]]:
    """The rows of one case after the other, from a process of its own.

    Raises:
        Refused: if the process dies.
    """
    environment = _environment()
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


def run_command(name: str, words: Sequence[str]) -> int:
    """`ssl-fast bench <name> <words>` in a process of its own; its exit status."""
    command = [sys.executable, "-m", "ssl_fast", "bench", name, *words]
    return subprocess.run(command, env=_environment()).returncode


def _environment() -> dict[str, str]:
    environment = {**QUIET, **os.environ}
    paths = (str(machine.ROOT), os.environ.get("PYTHONPATH"))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # where this package lies
    return environment
