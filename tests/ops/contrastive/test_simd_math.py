"""The kernels' own exp and log(1 + x), seen through ops that return little else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import ssl_fast
from ssl_fast._dispatch import OPS, backends, native

INSTRUCTION_SETS = ("baseline", "avx2", "avx512")


@pytest.fixture(params=INSTRUCTION_SETS, autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    if reason := backends.reason(OPS["siglip_loss"], "compiled", "cpu"):
        pytest.skip(reason)
    before = native.instruction_set()
    try:
        native.force_instruction_set(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    with ssl_fast.backend("compiled"):
        yield
    native.force_instruction_set(before)


def exp_of(x: Tensor) -> Tensor:
    """A row's softmax with a sum of 1; the columns' sums are so large that theirs are 0.

    The logits are x, 0 and -200: too far apart for one exponential to serve rows and columns.
    """
    rows = torch.stack([x, torch.ones_like(x)], dim=1)
    columns = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, -200.0]])
    targets = torch.ones(len(x), dtype=torch.int64)
    row_lse, column_lse = torch.zeros(len(x)), torch.full((3,), 1e30)
    result: Tensor = torch.ops.ssl_fast.similarity_gradients(
        rows, columns, targets, torch.ones(()), row_lse, column_lse, -1, False
    )[0]
    return result[:, 0]


def test_exp_to_one_unit_in_the_last_place() -> None:
    x = torch.cat([torch.linspace(-87, 88, 20011), torch.linspace(-1, 1, 2003)])
    exact = x.double().exp()
    assert ((exp_of(x).double() - exact).abs() / exact).max() < 2**-23


def test_exp_at_the_ends() -> None:
    x = torch.tensor([0.0, -0.0, -1e30, -200.0, -104.0, 100.0, 1e30, torch.nan])
    expected = [1.0, 1.0, 0.0, 0.0, 0.0, torch.inf, torch.inf, torch.nan]
    torch.testing.assert_close(exp_of(x), torch.tensor(expected), rtol=0, atol=0, equal_nan=True)


def test_exp_of_what_becomes_subnormal() -> None:
    x = torch.linspace(-103, -87, 501)
    torch.testing.assert_close(exp_of(x).double(), x.double().exp(), rtol=2**-23, atol=2**-149)


def test_log1p_through_softplus() -> None:
    """Of one pair that does not belong together the sigmoid loss is log(1 + e^x)."""
    one, zero = torch.ones((1, 1)), torch.zeros(())
    x = torch.cat([torch.linspace(-80, 20, 301), torch.linspace(-3, 3, 97)])
    losses = [torch.ops.ssl_fast.siglip_loss(one, one, v, zero, 5, False)[0] for v in x]
    exact = torch.nn.functional.softplus(x.double(), threshold=1000)
    assert ((torch.stack(losses).double() - exact).abs() / exact).max() < 2**-22
