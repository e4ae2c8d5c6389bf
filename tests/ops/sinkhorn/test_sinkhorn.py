"""What `ops.sinkhorn` says of its arguments, and that it is what others compute."""

from __future__ import annotations

import pytest
import torch

from ssl_fast import ops
from ssl_fast._testing.samples.sinkhorn import cosines


def upstream(scores, epsilon, iterations):
    """Step by step as in mmpretrain's, lightly's and SwAV's own function."""
    q = torch.exp(scores / epsilon).t()
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
        q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).t()


def in_logarithms(scores, epsilon, iterations):
    """For any range of scores: no exponential before the last step."""
    x = scores.double() / epsilon
    for _ in range(iterations):
        x = x - x.logsumexp(dim=0)
        x = x - x.logsumexp(dim=1, keepdim=True)
    return x.exp()


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("shape", [(64, 30), (5, 200), (1, 1), (1, 9), (9, 1)])
def test_equal_to_upstream(shape, iterations):
    scores = cosines(torch.float64, *shape)
    expected = upstream(scores, 0.05, iterations)
    torch.testing.assert_close(ops.sinkhorn(scores, 0.05, iterations), expected)
    rows = ops.sinkhorn(scores.float(), 0.05, iterations)
    torch.testing.assert_close(rows, expected.float(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("scale", "epsilon"), [(1, 0.001), (50, 0.05), (1e4, 0.05), (1e-6, 0.05)])
def test_far_beyond_the_range_of_exponentials(scale, epsilon):
    scores = cosines(torch.float32, 40, 60) * scale
    assert upstream(scores, epsilon, 3).isfinite().all() == (scale < 1)
    expected = in_logarithms(scores, epsilon, 3).float()
    # Scores are known to float32 alone, and divided by epsilon.
    tolerance = 1e-6 * max(1, scale / epsilon / 20)
    torch.testing.assert_close(ops.sinkhorn(scores, epsilon), expected, rtol=0, atol=tolerance)


def test_one_sample_far_from_the_others():
    """Its row starts at 0, or leaves all columns but one at 0, in the unshifted matrix."""
    for shift in (-9.0, 9.0):
        scores = cosines(torch.float32, 40, 60)
        scores[7] += shift
        expected = in_logarithms(scores, 0.001, 3).float()
        result = ops.sinkhorn(scores, 0.001)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-3)


def test_equal_shares():
    assigned = ops.sinkhorn(cosines(torch.float32, 300, 20), 0.05, 200)
    torch.testing.assert_close(assigned.sum(dim=0), torch.full((20,), 15.0), rtol=1e-3, atol=0)
    torch.testing.assert_close(assigned.sum(dim=1), torch.ones(300))
    uniform = ops.sinkhorn(torch.full((6, 4), 0.3), 0.05)
    torch.testing.assert_close(uniform, torch.full((6, 4), 0.25))


@pytest.mark.parametrize("shape", [(4096 // 8, 3000 // 8), (70, 33)])
def test_same_whatever_the_threads(shape):
    scores = cosines(torch.float32, *shape)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(ops.sinkhorn(scores, 0.05))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_target_has_no_gradient():
    scores = cosines(torch.float32, 6, 5).requires_grad_()
    assert not ops.sinkhorn(scores, 0.05).requires_grad
    epsilon = torch.tensor(0.05, dtype=torch.float64)
    assert torch.equal(ops.sinkhorn(scores, epsilon), ops.sinkhorn(scores, 0.05))


@pytest.mark.parametrize(
    ("scores", "epsilon", "iterations", "error", "message"),
    [
        ([[1.0]], 0.05, 3, TypeError, "scores is a list"),
        (torch.ones(2, 2, dtype=torch.int64), 0.05, 3, TypeError, "int64"),
        (torch.ones(2), 0.05, 3, ValueError, r"\(2,\)"),
        (torch.ones(2, 0), 0.05, 3, ValueError, r"\(2, 0\)"),
        (torch.ones(0, 2), 0.05, 3, ValueError, "no samples"),
        (torch.ones(2, 2), 0, 3, ValueError, "epsilon is 0"),
        (torch.ones(2, 2), torch.inf, 3, ValueError, "epsilon is inf"),
        (torch.ones(2, 2), "small", 3, TypeError, "epsilon is a str"),
        (torch.ones(2, 2), torch.ones(2), 3, ValueError, "epsilon has shape"),
        (torch.ones(2, 2), torch.tensor(1), 3, TypeError, "epsilon is torch.int64"),
        (torch.ones(2, 2), 0.05, 0, ValueError, "iterations is 0"),
        (torch.ones(2, 2), 0.05, 3.0, TypeError, "iterations is a float"),
    ],
)
def test_bad_arguments(scores, epsilon, iterations, error, message):
    with pytest.raises(error, match=message):
        ops.sinkhorn(scores, epsilon, iterations)


def test_group_without_processes():
    with pytest.raises(RuntimeError, match="not initialised"):
        ops.sinkhorn(torch.ones(2, 2), 0.05, group=object())
