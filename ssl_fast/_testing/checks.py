"""Checks that hold for every op. The generic tests take each op and sample through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import backend
from .._dispatch import Op
from .samples import Sample
from .tolerance import assert_as_good, magnitude

SCALAR_TERMS = 8.0  # how much larger its terms are, at the least


@contextmanager
def poisoned_allocation() -> Iterator[None]:
    """Fills what `torch.empty` returns with NaN (integers: their maximum) while it lasts.

    A kernel that leaves an element unwritten then shows, whatever memory it was given.
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills: Any = torch.utils.deterministic  # a module of properties, which mypy does not see
    filling = fills.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    fills.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        fills.fill_uninitialized_memory = filling


def outputs_of(result: Any) -> tuple[Tensor, ...]:
    """The tensors that an op returned."""
    return result if isinstance(result, tuple) else (result,)


def check_against_truth(op: Op, sample: Sample) -> None:
    """The backend in force is as near the float64 reference as the reference is, and repeatable."""
    _check_against_truth(op, sample, lambda run, call: outputs_of(run(*call.args)))


def check_gradients_against_truth(op: Op, sample: Sample) -> None:
    """The same of the gradients; the truth is what autograd makes of the reference's own steps."""
    for cotangent in (random_cotangent, constant_cotangent):
        _check_against_truth(op, sample, partial(gradients_of, cotangent))


def _check_against_truth(
    op: Op, sample: Sample, results_of: Callable[[Callable[..., Any], Sample], tuple[Tensor, ...]]
) -> None:
    with poisoned_allocation():
        results = results_of(op.overload, sample)
        again = results_of(op.overload, sample)
    references = results_of(op.reference, sample)
    truths = results_of(op.reference, sample.widened())
    assert len(results) == len(references)
    # A scalar sums up what the other results are made of, in many terms of either sign.
    values = () if sample.exact else truths
    largest = SCALAR_TERMS * max(map(magnitude, values), default=0.0)
    for result, repeated, reference, truth in zip(results, again, references, truths, strict=True):
        assert torch.equal(result.nan_to_num(), repeated.nan_to_num()), "two runs differ"
        if sample.exact:
            assert torch.equal(result, reference), f"{op.name}, {sample.name}: decisions differ"
        else:
            scale = largest if len(results) > 1 and result.dim() == 0 else None
            assert_as_good(result, reference, truth, f"{op.name}, {sample.name}", scale)


def random_cotangent(output: Tensor) -> Tensor:
    """A gradient of normal numbers, the same whatever the type: all types hold them."""
    generator = torch.Generator().manual_seed(output.numel())
    values = torch.randn(output.shape, generator=generator).bfloat16()
    return values.to(output.device, output.dtype)


def constant_cotangent(output: Tensor) -> Tensor:
    """What `output.sum()` sends back: one number, all strides 0."""
    return torch.full((), 0.75, dtype=output.dtype, device=output.device).expand(output.shape)


def gradients_of(
    cotangent: Callable[[Tensor], Tensor], function: Callable[..., Any], sample: Sample
) -> tuple[Tensor, ...]:
    """Gradients with respect to the sample's leaves, zero where an output does not depend on one.

    Args:
        cotangent: an output to the gradient that comes in from it.
        function: the op, its reference, or what else takes the sample's arguments.
    """
    call, leaves = sample.leaves()
    outputs = [out for out in outputs_of(function(*call.args)) if out.requires_grad]
    if not outputs:
        return ()
    gradients = torch.autograd.grad(
        outputs, leaves, [cotangent(out) for out in outputs], materialize_grads=True
    )
    return tuple(gradients)


def check_strides(op: Op, sample: Sample) -> None:
    """Other strides give what contiguous inputs give, summed perhaps in another order."""
    packed = outputs_of(op.overload(*sample.map(torch.Tensor.contiguous).args))
    for result, expected in zip(outputs_of(op.overload(*sample.args)), packed, strict=True):
        tolerance = 0.0 if sample.exact else 1e-6
        torch.testing.assert_close(
            result, expected, rtol=tolerance, atol=tolerance, equal_nan=True, msg=sample.name
        )


def check_registration(op: Op, sample: Sample) -> None:
    """`torch.library.opcheck`: schema, fake, autograd registration, AOT dispatch."""
    call = sample.leaves()[0] if op.differentiable else sample
    torch.library.opcheck(op.overload, call.args)


def check_gradients(op: Op, sample: Sample) -> None:
    """Differentiable: `gradcheck` in float64. Otherwise no output may ask for a gradient."""
    call, _ = sample.map(torch.Tensor.clone).leaves()
    if op.differentiable:
        assert torch.autograd.gradcheck(op.overload, call.args)
        return
    for result in outputs_of(op.overload(*call.args)):
        assert not result.requires_grad, f"{op.name} has no gradient but claims one"


def check_autocast(op: Op, sample: Sample) -> None:
    """An op that takes these dtypes computes the same under autocast: it chooses its own."""
    device = next(arg.device.type for arg in sample.args if isinstance(arg, Tensor))
    expected = outputs_of(op.overload(*sample.args))
    with torch.autocast(device, dtype=torch.bfloat16):
        results = outputs_of(op.overload(*sample.args))
    for result, plain in zip(results, expected, strict=True):
        assert result.dtype == plain.dtype
        assert torch.equal(result.nan_to_num(), plain.nan_to_num())


def check_compile(op: Op, sample: Sample, compiler: str) -> None:
    """The op stands in one graph of `torch.compile`, with the eager result and gradients."""
    torch.compiler.reset()

    def doubled(*args: Any) -> tuple[Tensor, ...]:
        return tuple(result + result for result in outputs_of(op.overload(*args)))

    compiled = torch.compile(doubled, fullgraph=True, backend=compiler)
    for result, expected in zip(compiled(*sample.args), doubled(*sample.args), strict=True):
        assert torch.equal(result.nan_to_num(), expected.nan_to_num())
    if not op.differentiable:
        return
    compiled_gradients, expected_gradients = (
        gradients_of(random_cotangent, function, sample) for function in (compiled, doubled)
    )
    for result, expected in zip(compiled_gradients, expected_gradients, strict=True):
        assert torch.equal(result.nan_to_num(), expected.nan_to_num())


def check_refuses(op: Op, name: str, sample: Sample) -> str:
    """A backend that cannot serve says why; returns what it said."""
    with backend(name):
        try:
            op.overload(*sample.args)
        except RuntimeError as error:
            return str(error)
    raise AssertionError(f"backend {name!r} served {op.name} where it cannot")
