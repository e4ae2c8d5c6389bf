"""Spread and rank of embeddings that are known."""

import math

import pytest
import torch

from ssl_fast.models.measures import feature_std, rankme


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_spread_of_all_directions_and_of_one():
    z = normal(4000, 64)
    assert feature_std(z).item() == pytest.approx(1, abs=0.01)
    assert feature_std(z * torch.logspace(-9, 9, 4000)[:, None]).item() == pytest.approx(
        1, abs=0.01
    )
    one = normal(1, 64).expand(100, 64)
    assert feature_std(one).item() < 1e-6
    assert feature_std(one + 0.01 * normal(100, 64)).item() == pytest.approx(0.01, rel=0.2)
    assert feature_std(torch.zeros(9, 4)) == 0


def test_spread_is_the_papers_formula_and_has_no_graph():
    z = normal(10, 6).double().requires_grad_()
    unit = z / z.norm(dim=1, keepdim=True)
    expected = math.sqrt(6) * unit.std(dim=0).mean()
    got = feature_std(z)
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (got.dtype, got.shape, got.requires_grad) == (torch.float32, (), False)
    assert feature_std(z.bfloat16()).item() == pytest.approx(expected.item(), rel=0.01)
    assert feature_std(z[:1]).isnan()
    assert feature_std(z[:0]).isnan()


@pytest.mark.parametrize("shape", [(300, 20), (20, 300)])
def test_rank_is_the_number_of_equal_directions(shape):
    left, _, right = torch.linalg.svd(normal(*shape).double(), full_matrices=False)
    for rank in (1, 5, 20):
        features = left[:, :rank] @ right[:rank] * 7
        assert rankme(features).item() == pytest.approx(rank, rel=1e-4)
    decaying = (left * torch.logspace(0, -6, 20)) @ right
    values = torch.linalg.svdvals(decaying)
    shares = values / values.sum() + 1e-7
    expected = torch.exp(-(shares * shares.log()).sum()).item()
    assert rankme(decaying).item() == pytest.approx(expected, rel=1e-6)
    assert rankme(decaying.float()).item() == pytest.approx(expected, rel=1e-4)


def test_rank_of_a_collapse():
    assert rankme(torch.ones(50, 8)).item() == pytest.approx(1, abs=1e-4)
    assert rankme(torch.zeros(50, 8)).item() == 1
    assert rankme(normal(1, 8)).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("measure", [feature_std, rankme])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (torch.ones(3, 2, dtype=torch.int64), TypeError, "features is torch.int64"),
        ([1.0], TypeError, "features is list"),
        (torch.ones(3), ValueError, r"features has shape \(3,\)"),
        (torch.ones(3, 0), ValueError, r"features has shape \(3, 0\)"),
    ],
)
def test_errors(measure, value, error, message):
    with pytest.raises(error, match=message):
        measure(value)


def test_rank_of_nothing():
    with pytest.raises(ValueError, match=r"features has shape \(0, 4\)"):
        rankme(torch.ones(0, 4))


def test_spread_compiles_and_does_not_wait():
    compiled = torch.compile(feature_std, fullgraph=True, backend="aot_eager")
    z = normal(16, 8)
    assert compiled(z).item() == pytest.approx(feature_std(z).item())
    # A value could not be read from these, so none is.
    with torch.device("meta"):
        assert feature_std(torch.empty(16, 8)).shape == ()
