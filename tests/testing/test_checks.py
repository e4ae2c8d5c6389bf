"""The checks themselves: each must be able to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_fast._dispatch import OPS, Op, library, register
from ssl_fast._testing import checks
from ssl_fast._testing.samples import Sample
from ssl_fast._testing.tolerance import assert_as_good

SAMPLE = Sample("toy", (torch.linspace(-1, 1, 12, dtype=torch.float32).reshape(3, 4).t(),))
SCALE = 2.0


def reference(x: Tensor) -> Tensor:
    return x * SCALE


@pytest.fixture
def toy() -> Iterator[Callable[..., Op]]:
    """Registers an op `toy` with a CPU kernel that the test gives, and forgets it again."""
    made: list[torch.library.Library] = []

    def make(
        kernel: Callable[..., Tensor],
        slope: float | None = None,
        backward: Callable[..., Tensor] | None = None,
    ) -> Op:
        name = f"toy{len(OPS)}_{id(kernel)}"
        options: dict[str, Any] = {"backward": backward}
        if slope is not None:
            options["backward"] = lambda ctx, grad: grad * slope
        register(
            f"{name}(Tensor x) -> Tensor", reference=reference, fake=torch.empty_like, **options
        )
        scoped = torch.library.Library(library.NAMESPACE, "IMPL")
        scoped.impl(name, kernel, "CPU")
        made.append(scoped)
        return OPS.pop(name)

    yield make
    for scoped in made:
        scoped._destroy()


def test_a_right_kernel_passes(toy: Callable[..., Op]) -> None:
    op = toy(torch.no_grad()(lambda x: x + x))
    checks.check_against_truth(op, SAMPLE)
    checks.check_strides(op, SAMPLE)
    checks.check_gradients(op, SAMPLE)
    checks.check_autocast(op, SAMPLE)
    checks.check_compile(op, SAMPLE, "aot_eager")
    differentiable = toy(lambda x: x * 2, slope=2.0)
    checks.check_registration(differentiable, SAMPLE)
    checks.check_compile(differentiable, SAMPLE, "aot_eager")


def test_a_wrong_value_fails(toy: Callable[..., Op]) -> None:
    with pytest.raises(AssertionError, match="maximum error"):
        checks.check_against_truth(toy(lambda x: x * 2.00001), SAMPLE)


def test_an_unwritten_element_fails(toy: Callable[..., Op]) -> None:
    def leaves_a_hole(x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        out[1:] = x[1:] * 2
        return out

    with pytest.raises(AssertionError, match="NaN misplaced"):
        checks.check_against_truth(toy(leaves_a_hole), SAMPLE)


def test_two_results_fail(toy: Callable[..., Op]) -> None:
    with pytest.raises(AssertionError, match="two runs differ"):
        checks.check_against_truth(toy(lambda x: x * 2 + torch.rand(1)), SAMPLE)


def test_ignored_strides_fail(toy: Callable[..., Op]) -> None:
    wrong = toy(lambda x: torch.as_strided(x, (x.numel(),), (1,)).reshape(x.shape) * 2)
    with pytest.raises(AssertionError):
        checks.check_strides(wrong, SAMPLE)


def test_a_leaked_graph_fails(toy: Callable[..., Op]) -> None:
    op = toy(lambda x: (x * 2).requires_grad_())
    with pytest.raises(AssertionError, match="has no gradient but claims one"):
        checks.check_gradients(op, SAMPLE)


def test_gradients_are_checked(toy: Callable[..., Op]) -> None:
    sample = SAMPLE.widened()
    checks.check_gradients(toy(lambda x: x * 2, slope=2.0), sample)
    with pytest.raises(Exception, match="Jacobian mismatch"):
        checks.check_gradients(toy(lambda x: x + x, slope=3.0), sample)


def test_true_gradients_are_checked(toy: Callable[..., Op]) -> None:
    checks.check_gradients_against_truth(toy(lambda x: x * 2, slope=2.0), SAMPLE)
    with pytest.raises(AssertionError, match="maximum error"):
        checks.check_gradients_against_truth(toy(lambda x: x + x, slope=2.00001), SAMPLE)


def test_ignored_strides_of_a_gradient_fail(toy: Callable[..., Op]) -> None:
    def ignores_strides(grad: Tensor) -> Tensor:
        out = torch.zeros_like(grad, memory_format=torch.contiguous_format)
        held = grad.untyped_storage().nbytes() // grad.element_size()
        out.view(-1)[:held] = grad.as_strided((held,), (1,)) * SCALE
        return out

    op = toy(lambda x: x * 2, backward=lambda ctx, grad: ignores_strides(grad))
    checks.check_gradients(op, SAMPLE.widened())
    with pytest.raises(AssertionError, match="maximum error"):
        checks.check_gradients_against_truth(op, SAMPLE)


def test_constants_get_no_gradient() -> None:
    x = SAMPLE.args[0]
    call, leaves = Sample("toy", (x, torch.arange(3), 1.5, x), constants=(3,)).leaves()
    assert [arg.requires_grad for arg in call.args if isinstance(arg, Tensor)] == [1, 0, 0]
    assert len(leaves) == 1
    assert leaves[0] is call.args[0]
    assert not x.requires_grad


def test_decisions_are_compared_bit_for_bit(toy: Callable[..., Op]) -> None:
    exact = Sample("toy", SAMPLE.args, exact=True)
    with pytest.raises(AssertionError, match="decisions differ"):
        checks.check_against_truth(toy(lambda x: x * 2 * (1 + 2**-23)), exact)


def test_the_rule_knows_shapes_types_and_both_norms() -> None:
    truth = torch.ones(1000, dtype=torch.float64)
    assert_as_good(truth.float(), truth.float(), truth, "equal")
    with pytest.raises(AssertionError, match="shape"):
        assert_as_good(truth[1:].float(), truth.float(), truth, "short")
    with pytest.raises(AssertionError, match=r"torch.float64, expected torch.float32"):
        assert_as_good(truth, truth.float(), truth, "wide")
    one_off = truth.float().clone()
    one_off[0] += 1e-5
    with pytest.raises(AssertionError, match="rms"):
        # The reference has one such error, the result a thousand.
        assert_as_good(truth.float() + 1e-5, one_off, truth, "spread")


def test_samples_keep_their_strides() -> None:
    moved = SAMPLE.to("meta")
    assert moved.args[0].stride() == SAMPLE.args[0].stride()
    assert SAMPLE.widened().args[0].dtype == torch.float64
    assert Sample("toy", (torch.bfloat16, 1)).widened().args == (torch.float64, 1)
