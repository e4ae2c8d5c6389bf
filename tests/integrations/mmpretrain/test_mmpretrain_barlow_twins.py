"""mmpretrain's LatentCrossCorrelationHead gives the same with our replacement as without."""

import pytest
import torch
from torch import nn

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmpretrain.models.heads import LatentCrossCorrelationHead  # noqa: E402

from ssl_fast import ops  # noqa: E402
from ssl_fast.integrations import mmpretrain as integration  # noqa: E402

LOSS = dict(type="CrossCorrelationLoss", lambd=0.03)


def head_of(size, **options):
    return LatentCrossCorrelationHead(size, dict(LOSS, **options)).train()


def result(head, rows, size, dtype=torch.float32, autocast=False):
    """Loss, gradients, state after two calls."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        z = 2 * torch.randn(2, rows, size, generator=generator) + 1
        first, second = (x.to(dtype).requires_grad_() for x in (z[0], z[0] + z[1]))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = head.loss(first, second)
        (2 * loss).backward()
    return loss.detach(), first.grad, second.grad, head.state_dict()


def both(make, *args, **options):
    with integration.enable(quiet=True):
        ours = result(make(), *args, **options)
    with integration.disable():
        return ours, result(make(), *args, **options)


@pytest.mark.parametrize(("rows", "size"), [(20, 7), (5, 40), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_gradients_and_running_statistics(rows, size, dtype):
    ours, upstream = both(lambda: head_of(size).to(dtype), rows, size, dtype)
    torch.testing.assert_close(ours, upstream, rtol=1e-4, atol=1e-6)
    assert ours[3]["bn.num_batches_tracked"] == 4


@pytest.mark.parametrize("options", [dict(momentum=None), dict(track_running_stats=False)])
def test_other_kinds_of_statistics(options):
    def make():
        head = head_of(7)
        head.bn = nn.BatchNorm1d(7, affine=False, **options).train()
        return head

    ours, upstream = both(make, 20, 7)
    torch.testing.assert_close(ours, upstream, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("dtype", "autocast"), [(torch.bfloat16, False), (torch.float32, True)])
def test_half_precision_is_as_near_to_the_truth(dtype, autocast):
    ours, upstream = both(lambda: head_of(7), 64, 7, dtype, autocast)
    with integration.disable():
        truth = result(head_of(7).double(), 64, 7, torch.float64)
    for found, theirs, true in zip(ours[:3], upstream[:3], truth[:3], strict=True):
        assert found.dtype == theirs.dtype
        limit = 2 * (theirs - true).norm() + 0.01 * true.norm()
        assert (found - true).norm() <= limit
    torch.testing.assert_close(ours[3], upstream[3])


@pytest.mark.parametrize("what", ["eval", "affine", "loss", "hook", "world_size"])
def test_what_is_left_to_upstream(what, monkeypatch):
    def make():
        head = head_of(7)
        if what == "eval":
            head.eval()
        elif what == "affine":
            head.bn = nn.BatchNorm1d(7).train()
        elif what == "loss":
            head.loss_module = nn.Sequential(head.loss_module)
        elif what == "hook":
            head.loss_module.register_forward_hook(lambda module, args, out: 2 * out)
        else:
            head.world_size = 2
        return head

    def called(*args, **kwargs):
        raise AssertionError("the op was called")

    monkeypatch.setattr(ops, "barlow_twins_loss", called)
    ours, upstream = both(make, 20, 7)
    torch.testing.assert_close(ours, upstream, rtol=0, atol=0)


def test_one_row_is_refused_as_upstream_does():
    with integration.enable(quiet=True), pytest.raises(ValueError, match="more than 1 value"):
        head_of(7).loss(torch.ones(1, 7), torch.ones(1, 7))
