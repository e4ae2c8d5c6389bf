"""Compares the entrants' first losses, then trains them in turns."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor

from ... import backend
from .. import machine
from ..case import Mismatch, Skipped
from ..memory import peak_extra_mb
from ..report import FAILED, OK, SKIPPED
from ..timers import clock_for, quantiles
from .entrants import Entrant, Task, make_task, providers_of
from .rows import StepRow
from .sizes import Method
from .spans import share_of_step

MIN_ROUNDS, PROFILED = 5, 1


def measure(
    name: str,
    method: Method,
    device: str,
    precision: str,
    seconds: float,
    small: bool = False,
    providers: Collection[str] = (),
) -> list[StepRow]:
    """A row for each provider of a method.

    Args:
        name: of the method.
        device: "cpu" or "cuda".
        precision: "fp32", or "bf16" for autocast; losses are compared in fp32.
        seconds: for the rounds; what comes before them is not counted.
        small: a size that only tries the harness.
        providers: names; the references run in any case. Empty for all.
    """
    size = method.size(device, small)
    task = make_task(name, method, size, device)
    rows, entrants = [], {}
    truth: tuple[float, float] | None = None
    for provider, prepare in providers_of(name).items():
        if providers and provider not in providers and truth is not None:
            continue
        row = StepRow(name, size.words, size.batch, precision, provider, device)
        rows.append(row)
        try:
            entrant = prepare(task)
            row.note = entrant.note
            row.versions = machine.versions(entrant.packages)
            with _in_force(entrant):
                row.loss, row.grad_norm = first_step(entrant)
            truth = truth or (row.loss, row.grad_norm)
            check(entrant, (row.loss, row.grad_norm), truth, device)
            entrants[provider] = entrant
        except Skipped as reason:
            row.status = f"{SKIPPED}: {reason}"
        except Exception as error:  # whatever a provider raises is its result
            row.status = f"{FAILED}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    steps = {provider: step_of(each, task, precision) for provider, each in entrants.items()}
    for row in rows:
        if row.provider in entrants:
            with _in_force(entrants[row.provider]):
                steps[row.provider]()
                row.peak_mb = peak_extra_mb(steps[row.provider], device)
    train_in_turns(entrants, steps, device, seconds)
    for row in rows:
        if row.status == OK:
            _fill_in(row, entrants[row.provider])
    return rows


def _in_force(entrant: Entrant) -> contextlib.AbstractContextManager[None]:
    return backend(entrant.backend) if entrant.backend else contextlib.nullcontext()


def first_step(entrant: Entrant) -> tuple[float, float]:
    """Loss and norm of the gradient of the batch that all share; the weights stay."""
    loss = entrant.compared_loss()
    loss.backward()
    gradients = [p.grad for p in entrant.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    entrant.model.zero_grad()
    return loss.item(), norm.item()


def check(
    entrant: Entrant, got: tuple[float, float], truth: tuple[float, float], device: str
) -> None:
    """Loss and gradient against those of the references.

    Raises:
        Mismatch: if one is farther off than the entrant's tolerance; on a GPU ten times that, for
            convolutions may be in TF32.
    """
    tolerance = entrant.tolerance * (10 if device == "cuda" else 1)
    for what, value, expected in zip(("loss", "gradient norm"), got, truth, strict=True):
        if not math.isclose(value, expected, rel_tol=tolerance):
            raise Mismatch(
                f"{what} of the first step is {value:.6g}; expected {expected:.6g} within "
                f"{tolerance:.0e} of it"
            )


def step_of(entrant: Entrant, task: Task, precision: str) -> Callable[[], None]:
    """A step of training. All have the same optimiser: AdamW for transformers, SGD for ResNets."""
    trained = [p for p in entrant.model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if task.size.backbone.startswith("resnet"):
        optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=task.device == "cuda")

    def step() -> None:
        with torch.autocast(task.device, torch.bfloat16, enabled=precision == "bf16"):
            loss: Tensor = entrant.loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def train_in_turns(
    entrants: dict[str, Entrant],
    steps: dict[str, Callable[[], None]],
    device: str,
    seconds: float,
) -> None:
    """Samples of times, and at first of shares, round after round until the time is over."""
    clock = clock_for(device)
    for done in _rounds(seconds):
        for name, entrant in entrants.items():
            with _in_force(entrant):
                if done < PROFILED:
                    entrant.shares.append(share_of_step(steps[name], entrant.spans, device))
                entrant.samples.append(clock.elapsed_ms(steps[name]))


def _rounds(seconds: float) -> Iterator[int]:
    end, done = time.monotonic() + seconds, 0
    while done < MIN_ROUNDS or time.monotonic() < end:
        yield done
        done += 1


def _fill_in(row: StepRow, entrant: Entrant) -> None:
    row.median_ms, row.p20_ms, row.p80_ms = quantiles(entrant.samples)
    row.samples = len(entrant.samples)
    row.images_per_s = 1e3 * row.batch / row.median_ms
    row.hot_share = quantiles(entrant.shares)[0]
    row.hot_ms = row.hot_share * row.median_ms
