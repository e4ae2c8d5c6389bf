"""What a case file declares: inputs, who competes, what is right, and what must be moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Inputs = tuple[Any, ...]
WIDENED = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)


class Skipped(Exception):
    """Raised by a provider that cannot run here, with the reason (and the remedy, if any)."""


class Mismatch(Exception):
    """An output that is not what the float64 reference says."""


@dataclass(frozen=True)
class Provider:
    """Somebody who does the work of a case.

    Attributes:
        name: as the table shows it.
        prepare: takes the device type, returns a function of the case's inputs; may raise Skipped.
        backend: the `ssl_fast.backend` in force while this provider runs; None for other people's.
        packages: distributions whose versions matter besides torch and ssl_fast.
        thorough: whether it is left out of the short run, for the time that it takes.
    """

    name: str
    prepare: Callable[[str], Callable[..., Any]]
    backend: str | None = None
    packages: tuple[str, ...] = ()
    thorough: bool = False


@dataclass(frozen=True)
class Check:
    """Inputs on which every provider must agree with the float64 reference.

    Attributes:
        make_inputs: (device type, seed) -> the inputs; random, never constant.
        atol: largest difference of a value that counts as agreement.
        share: least share of the values that must agree. Below 1 where a value depends on a
            decision (a bin, a rank) that rounding may turn in single places.
    """

    name: str
    make_inputs: Callable[[str, int], Inputs]
    atol: float
    share: float = 1.0

    def view(self, output: Tensor) -> Tensor:
        """What of an output is compared. Samplers of other random numbers agree in counts only."""
        return output


@dataclass(frozen=True)
class Case:
    """One line of the comparison: an op on one shape and dtype.

    Attributes:
        op: name of the op, as in `torch.ops.ssl_fast`.
        name: shape and options, as the table shows them.
        dtype: of the main input, as the table shows it.
        reference: plain torch, a function of the inputs; in float64 it is the truth.
        checks: done before any timing; the inputs that are timed come from the first.
        moved_bytes: each input read once and each output written once, from a formula.
        providers: who is compared.
        flops: of the matrix products that no known way of computing it can leave out, a
            multiplication and an addition being two; 0 where there are none.
        theirs: the provider that users have today, for the summary; empty if nobody has it.
        headline: whether it stands in the summary, and in the short run.
        axis, size: what grows ("N", "pixels", ...) and how large it is here, for cases of growth.
    """

    op: str
    name: str
    dtype: str
    reference: Callable[..., Any]
    checks: tuple[Check, ...]
    moved_bytes: int
    providers: tuple[Provider, ...]
    flops: int = 0
    theirs: str = ""
    headline: bool = False
    axis: str = ""
    size: int = 0

    @property
    def shape(self) -> str:
        """The name without what grows."""
        return self.name.removeprefix(f"over {self.axis}: ")


def tensors_of(result: Any) -> tuple[Tensor, ...]:
    """The tensors among outputs or inputs."""
    parts = result if isinstance(result, (tuple, list)) else (result,)
    return tuple(part for part in parts if isinstance(part, Tensor))


def bytes_of(result: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(result))


def truth_of(case: Case, inputs: Inputs) -> tuple[Tensor, ...]:
    """The outputs of the reference in float64. Masks and indices are no values: they stay."""

    def widen(part: Any) -> Any:
        return part.double() if isinstance(part, Tensor) and part.dtype in WIDENED else part

    return tensors_of(case.reference(*map(widen, inputs)))


@dataclass(frozen=True)
class Agreement:
    """How near an output is to the truth.

    Attributes:
        max_error: largest difference of a value that agrees.
        turned: share of the values that do not: a decision fell on the other side.
    """

    max_error: float = 0.0
    turned: float = 0.0

    def worse_of(self, other: Agreement) -> Agreement:
        worst = max(self.max_error, other.max_error)
        return Agreement(worst, max(self.turned, other.turned))


def compare(result: Any, truth: tuple[Tensor, ...], check: Check) -> Agreement:
    """How near `result` is to the truth.

    Raises:
        Mismatch: if the check is not met: shapes, places of NaN, or too many values off.
    """
    outputs = tensors_of(result)
    if len(outputs) != len(truth):
        raise Mismatch(f"{check.name}: {len(outputs)} outputs, expected {len(truth)}")
    agreement = Agreement()
    for got, expected in zip(outputs, truth, strict=True):
        one = _compare_one(check.view(got), check.view(expected), check)
        agreement = agreement.worse_of(one)
    return agreement


def _compare_one(got: Tensor, expected: Tensor, check: Check) -> Agreement:
    if got.shape != expected.shape:
        raise Mismatch(f"{check.name}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    if not expected.is_floating_point():
        if wrong := int((got != expected).sum()):
            raise Mismatch(f"{check.name}: {wrong} of {got.numel()} decisions differ")
        return Agreement()
    if got.numel() == 0:
        return Agreement()
    # Equal infinities, and NaN in the same place, agree; in one of the two nothing excuses them.
    same = (got == expected) | (got.isnan() & expected.isnan())
    error = torch.where(same, 0.0, (got.double() - expected).abs())
    if stray := int((~error.isfinite()).sum()):
        raise Mismatch(f"{check.name}: NaN or infinity misplaced or missing in {stray} values")
    off = error > check.atol
    turned = off.double().mean().item()
    if turned > 1 - check.share:
        raise Mismatch(
            f"{check.name}: {turned:.4%} of the values are off by more than {check.atol:g}, at "
            f"most by {error.max():.3g}; accepted are {1 - check.share:.4%}"
        )
    return Agreement(error.masked_fill(off, 0.0).max().item(), turned)
