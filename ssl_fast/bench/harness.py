"""Runs a case: every provider against the truth first, then all of them in turns.

In turns, because a machine's speed drifts: who is timed later would win or lose by that alone.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import backend
from . import ceilings, machine
from .case import Agreement, Case, Inputs, Provider, Skipped, compare
from .gradients import Staged
from .memory import peak_extra_mb, resident_extra_mb
from .report import FAILED, OK, SKIPPED, Row
from .timers import (
    GRAPH_BELOW_MS,
    Clock,
    can_be_captured,
    clock_for,
    cold_inputs,
    graph_of,
    host_ms,
    quantiles,
)
from .truths import Truths

MIN_ROUNDS, MAX_ROUNDS = 5, 1000
LONG_ROUND, FEW_ROUNDS = 3.0, 3  # of rounds of so many seconds and more, fewer have to do
TURN_MS = 50.0  # how long a provider with short calls has the machine in a round
MAX_PER_TURN = 20
STAGED = 4  # inputs for which a first step is done
LONG_MS = 500.0  # calls that need no other estimate than what another measurement took
MIN_SAMPLE_MS = 0.2  # shorter calls are measured several at a time


@dataclass
class Lane:
    """A provider that takes part in the rounds.

    Attributes:
        rotation: the inputs that are timed; kept here, for a CUDA graph does not keep them.
        call: does `calls` calls of the provider.
        repeats: how often a sample calls `call`.
        per_turn: samples in a turn.
    """

    row: Row
    provider: Provider
    function: Callable[..., Any]
    rotation: Sequence[Inputs] = ()
    call: Callable[[], Any] = lambda: None
    calls: int = 1
    repeats: int = 1
    per_turn: int = 1
    samples: list[float] = field(default_factory=list)
    agreement: Agreement = field(default_factory=Agreement)

    def active(self) -> contextlib.AbstractContextManager[None]:
        """The provider's backend is in force."""
        name = self.provider.backend
        return backend(name) if name else contextlib.nullcontext()

    def sample(self, clock: Clock) -> float:
        """Milliseconds of one call. Its outputs are freed within, as in a training loop."""

        def repeated() -> None:
            for _ in range(self.repeats):
                self.call()

        return clock.elapsed_ms(repeated) / (self.repeats * self.calls)


def run_case(case: Case, device: str, allocator: str, seconds: float, truths: Truths) -> list[Row]:
    """Checks and times all providers of a case.

    Args:
        device: "cpu" or "cuda".
        allocator: the regime this process is in, for the rows.
        seconds: for the rounds; checks, compilation and warm-up come on top.
        truths: what outputs are compared with.

    Returns:
        A row for each provider; and for the ceilings that bound them, if any was timed.
    """
    lanes, rows = _prepare(case, device, allocator)
    _check(case, lanes, device, truths)
    lanes = [lane for lane in lanes if lane.row.status == OK]
    if not lanes:
        return rows
    rotation = cold_inputs(case.checks[0].make_inputs, device)
    for lane in lanes:
        lane.rotation = rotation
        if isinstance(lane.function, Staged):
            _stage(lane, lane.function)
    bounds: dict[str, Lane] = {}
    for ceiling in ceilings.ceilings_of(case, device):
        (bound,), bound_rows = _prepare(ceiling, device, allocator)
        _check(ceiling, [bound], device, Truths(None))
        bound.rotation = cold_inputs(ceiling.checks[0].make_inputs, device)
        bounds[bound.provider.name] = bound
        rows += bound_rows
    clock = clock_for(device)
    everyone = [*lanes, *bounds.values()]
    for lane in everyone:
        warm_up(lane, clock, device)
    interleave(everyone, clock, seconds)
    for lane in everyone:
        _fill_in(lane, case, bounds, device)
    torch.compiler.reset()
    return rows


def _prepare(case: Case, device: str, allocator: str) -> tuple[list[Lane], list[Row]]:
    lanes, rows = [], []
    for provider in case.providers:
        row = Row(
            *(case.op, case.name, case.dtype, provider.name, allocator, device),
            theirs=case.theirs,
            headline=case.headline,
            axis=case.axis,
            size=case.size,
        )
        rows.append(row)
        try:
            lanes.append(Lane(row, provider, provider.prepare(device)))
        except Skipped as reason:
            row.status = f"{SKIPPED}: {reason}"
        except Exception as error:
            row.status = f"{FAILED}: {_one_line(error)}"
    return lanes, rows


def _check(case: Case, lanes: Sequence[Lane], device: str, truths: Truths) -> None:
    """Compares each lane's outputs with the truth; who differs, or raises, is marked as failed."""
    for number, check in enumerate(case.checks):
        inputs = check.make_inputs(device, 0)
        truth = truths.of(case, number, inputs)
        for lane in lanes:
            if lane.row.status != OK:
                continue
            try:
                with lane.active():
                    lane.agreement = lane.agreement.worse_of(
                        compare(lane.function(*inputs), truth, check)
                    )
            except Exception as error:  # whatever a provider raises is its result
                lane.row.status = f"{FAILED}: {_one_line(error)}"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def _stage(lane: Lane, function: Staged) -> None:
    """Does the first step for some of the inputs: what it keeps may be large."""
    with lane.active():
        lane.rotation = [(function.stage(*inputs),) for inputs in lane.rotation[:STAGED]]
    lane.function = lambda second: second()


def warm_up(lane: Lane, clock: Clock, device: str) -> None:
    """Calls the lane until it is warm, measures its memory, plans its turns."""
    inputs = itertools.cycle(lane.rotation)
    lane.call = lambda: lane.function(*next(inputs))
    lane.row.timing = clock.name
    with lane.active():
        if device == "cuda":
            lane.call()  # on a CPU the comparison has warmed it
            lane.row.host_ms = host_ms(lane.call)
        lane.row.extra_mb = peak_extra_mb(lane.call, device)
        begin = time.perf_counter()
        if device == "cpu":
            lane.row.resident_mb = resident_extra_mb(lane.call)
        estimate = 1e3 * (time.perf_counter() - begin)
        if estimate < LONG_MS:
            estimate = min(lane.sample(clock), lane.sample(clock))
        if device == "cuda" and estimate < GRAPH_BELOW_MS and can_be_captured(lane.call):
            with contextlib.suppress(RuntimeError):  # what that does not see
                lane.call, lane.calls = graph_of(lane.function, lane.rotation, estimate)
                lane.row.timing = "graph"
                estimate = lane.sample(clock)
    one = max(estimate * lane.calls, 1e-6)
    lane.repeats = max(1, math.ceil(MIN_SAMPLE_MS / one))
    lane.per_turn = max(1, min(MAX_PER_TURN, int(TURN_MS / (one * lane.repeats))))


def interleave(lanes: Sequence[Lane], clock: Clock, seconds: float) -> None:
    """Gives every lane its turn, round after round, until the time is over."""
    begin = time.monotonic()
    least = MIN_ROUNDS
    for done in range(MAX_ROUNDS):
        spent = time.monotonic() - begin
        if done == 1 and spent >= LONG_ROUND:
            least = FEW_ROUNDS
        if done >= least and spent >= seconds:
            return
        for lane in lanes:
            with lane.active():
                if lane.provider.backend:
                    lane.call()  # the dispatcher finds its way anew after a change of backend
                lane.samples += [lane.sample(clock) for _ in range(lane.per_turn)]


def _fill_in(lane: Lane, case: Case, bounds: Mapping[str, Lane], device: str) -> None:
    """Numbers into a row, beside what the ceilings took in the same rounds."""
    row = lane.row
    row.median_ms, row.p20_ms, row.p80_ms = quantiles(lane.samples)
    row.samples = len(lane.samples)
    if lane.provider.name != ceilings.PRODUCT:
        row.gb_per_s = case.moved_bytes / row.median_ms / 1e6
        row.copy_share = quantiles(bounds[ceilings.COPY].samples)[0] / row.median_ms
    if product := bounds.get(ceilings.PRODUCT):
        rate = ceilings.product_flops(device) / quantiles(product.samples)[0]
        if lane is product:
            row.gflop_per_s = rate / 1e6
        elif lane.provider.name != ceilings.COPY:
            row.gflop_per_s = case.flops / row.median_ms / 1e6
            row.product_share = case.flops / rate / row.median_ms
    row.max_error, row.turned = lane.agreement.max_error, lane.agreement.turned
    row.versions = machine.versions(lane.provider.packages)
