"""mmpretrain's SwAVLoss and Sinkhorn give the same with our replacements as without."""

import pytest
import torch
import torch.nn.functional as F

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmpretrain.models.losses import swav_loss  # noqa: E402

from ssl_fast import ops  # noqa: E402
from ssl_fast.integrations import mmpretrain as integration  # noqa: E402


def both(run):
    with integration.enable(quiet=True):
        ours = run()
    with integration.disable():
        return ours, run()


def scores_of(rows, columns, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    z, prototypes = (torch.randn(n, 16, generator=generator) for n in (rows, columns))
    return (F.normalize(z) @ F.normalize(prototypes).T).to(dtype)


@pytest.mark.parametrize(("rows", "columns"), [(12, 30), (64, 7), (1, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn(rows, columns, dtype, iterations):
    scores = scores_of(rows, columns, dtype)
    ours, upstream = both(lambda: swav_loss.distributed_sinkhorn(scores, iterations, 1, 0.05))
    torch.testing.assert_close(ours, upstream, rtol=1e-4, atol=1e-6)
    assert ours.stride() == upstream.stride()


def test_sinkhorn_in_half_precision_and_by_name():
    scores = scores_of(12, 30, torch.bfloat16)
    named = dict(out=scores, sinkhorn_iterations=3, world_size=1, epsilon=0.05)
    ours, upstream = both(lambda: swav_loss.distributed_sinkhorn(**named))
    assert ours.dtype == upstream.dtype
    truth = ops.sinkhorn(scores.double(), 0.05)
    assert (ours - truth).norm() <= (upstream - truth).norm() + 1e-2 * truth.norm()


def test_no_iterations_are_left_to_upstream():
    ours, upstream = both(lambda: swav_loss.distributed_sinkhorn(scores_of(12, 30), 0, 1, 0.05))
    assert torch.equal(ours, upstream)


def test_scores_that_overflow_upstream_are_assigned():
    scores = scores_of(12, 4)
    ours, upstream = both(lambda: swav_loss.distributed_sinkhorn(scores, 3, 1, 0.005))
    assert upstream.isnan().any()
    torch.testing.assert_close(ours.sum(dim=1), torch.ones(12))


def loss_of(**options):
    torch.manual_seed(0)
    return swav_loss.SwAVLoss(16, num_prototypes=10, **options)


def run_loss(make, rows, calls=3, dtype=torch.float32, autocast=False):
    """Losses, gradients, prototypes and queue of some steps."""
    loss, found = make().to(dtype), []
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(calls):
        x = F.normalize(torch.randn(rows, 16, generator=generator)).to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss(x)
        optimizer.zero_grad()
        (2 * value).backward()
        found.append((value.detach(), x.grad, loss.prototypes.weight.grad.clone()))
        optimizer.step()
    return found, loss.state_dict(), loss.queue, loss.use_queue


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("crops", "assigned"), [([2], [0, 1]), ([2, 3], [0, 1]), ([2, 1], [1]), ([1, 2], [2, 0])]
)
def test_the_loss(crops, assigned, dtype):
    def make():
        return loss_of(num_crops=crops, crops_for_assign=assigned)

    ours, upstream = both(lambda: run_loss(make, 5 * sum(crops), dtype=dtype))
    exact = dict(rtol=1e-9, atol=1e-12) if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, upstream, **exact)


def test_the_loss_with_a_queue_that_fills_up():
    def make():
        loss = loss_of(num_crops=[2, 1])
        loss.queue = torch.zeros(2, 12, 16)
        return loss

    ours, upstream = both(lambda: run_loss(make, 15, calls=5))
    torch.testing.assert_close(ours, upstream, rtol=1e-4, atol=1e-5)
    assert ours[3]


def test_the_loss_under_autocast():
    def make():
        return loss_of(num_crops=[2, 1])

    ours, upstream = both(lambda: run_loss(make, 24, calls=1, autocast=True)[0][0])
    with integration.disable():
        truth = run_loss(make, 24, calls=1, dtype=torch.float64)[0][0]
    for found, theirs, true in zip(ours, upstream, truth, strict=True):
        assert found.dtype == theirs.dtype
        assert (found - true).norm() <= 2 * (theirs - true).norm() + 0.01 * true.norm()


def test_without_gradients():
    def run():
        with torch.no_grad():
            return loss_of()(scores_of(8, 16))

    ours, upstream = both(run)
    torch.testing.assert_close(ours, upstream)


def test_rows_that_are_no_whole_views_are_left_to_upstream():
    ours, upstream = both(lambda: run_loss(lambda: loss_of(num_crops=[2, 1]), 16))
    torch.testing.assert_close(ours, upstream, rtol=1e-4, atol=1e-5)
