"""mmpretrain's multi-view models train the same with our replacements as without."""

import pytest
import torch

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmpretrain.models.selfsup import SimCLR  # noqa: E402

from ssl_fast import ops  # noqa: E402
from ssl_fast.integrations import mmpretrain as integration  # noqa: E402
from ssl_fast.integrations.mmpretrain.contrastive import _enqueue_on_device  # noqa: E402
from tests.integrations.mmpretrain.contrastive_models import (  # noqa: E402
    CONFIGS,
    built,
    trained,
    views_of,
)


def with_and_without(run):
    """What `run` returns with the replacements, then without."""
    with integration.enable(quiet=True):
        ours = run()
    with integration.disable():
        return ours, run()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_model_trains_the_same(name, dtype):
    batches = [[v.to(dtype) for v in views_of(name, seed=seed)] for seed in range(3)]
    ours, upstream = with_and_without(lambda: trained(built(name).to(dtype), batches))
    # Batch norms of 4 samples blow rounding errors up.
    exact = dict(rtol=1e-8, atol=1e-10) if dtype == torch.float64 else dict(rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(ours, upstream, **exact)
    assert list(ours[1]) == list(upstream[1])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_trains_as_well_under_autocast(name):
    """As near to the step in float32 as upstream's."""

    def run(autocast):
        [(losses, gradients)], state = trained(built(name), [views_of(name, 8)], autocast)
        return losses, gradients, state

    ours, upstream = with_and_without(lambda: run(True))
    with integration.disable():
        truth = run(False)
    assert_same_types(ours, upstream)
    for found, theirs, true in zip(ours, upstream, truth, strict=True):
        found, theirs, true = (flat(tensors) for tensors in (found, theirs, true))
        assert (found - true).norm() <= 2 * (theirs - true).norm() + 0.01 * true.norm()


def flat(tensors):
    return torch.cat([tensor.double().flatten() for tensor in tensors.values()])


def assert_same_types(ours, upstream):
    for found, theirs in zip(ours, upstream, strict=True):
        assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in theirs.items()}


def without_ops(monkeypatch):
    def called(*args, **kwargs):
        raise AssertionError("the op was called")

    for op in ("nt_xent", "info_nce", "info_nce_queue"):
        monkeypatch.setattr(ops, op, called)


UNUSUAL = {
    "class weights": lambda head: setattr(head.loss_module, "class_weight", [1.0] * 25),
    "sum": lambda head: setattr(head.loss_module, "reduction", "sum"),
    "hook": lambda head: head.loss_module.register_forward_hook(lambda m, i, out: 2 * out),
    "other loss": lambda head: setattr(head, "loss_module", torch.nn.CrossEntropyLoss()),
    "temperature": lambda head: setattr(head, "temperature", torch.tensor(0.2)),
    "own loss": lambda head: setattr(head, "loss", lambda pos, neg: neg.mean() - pos.mean()),
}


@pytest.mark.parametrize("name", ["MoCo", "DenseCL"])
@pytest.mark.parametrize("what", UNUSUAL)
def test_unusual_heads_are_left_to_upstream(name, what, monkeypatch):
    def run():
        model = built(name)
        UNUSUAL[what](model.head)
        return trained(model, [views_of(name)])

    without_ops(monkeypatch)
    ours, upstream = with_and_without(run)
    torch.testing.assert_close(ours, upstream, rtol=0, atol=0)


def test_the_op_is_called_where_it_serves(monkeypatch):
    without_ops(monkeypatch)
    for name in ("SimCLR", "MoCo", "DenseCL", "MoCoV3"):
        with integration.enable(quiet=True), pytest.raises(AssertionError, match="op was called"):
            trained(built(name), [views_of(name)])


def test_a_subclass_with_pairs_of_its_own(monkeypatch):
    class Swapped(SimCLR):
        @staticmethod
        def _create_buffer(batch_size, device):
            mask, positives, negatives = SimCLR._create_buffer(batch_size, device)
            return mask, positives, negatives

    without_ops(monkeypatch)
    model = built("SimCLR")
    model.__class__ = Swapped
    with integration.enable(quiet=True):
        trained(model, [views_of("SimCLR")])


def test_keys_with_a_gradient_keep_it():
    """As upstream in one process: nothing detaches them."""

    def run():
        head = built("MoCoV3").head
        query, key = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(3))
        query.requires_grad_(), key.requires_grad_()
        head.loss(query, key).backward()
        return query.grad, key.grad

    ours, upstream = with_and_without(run)
    torch.testing.assert_close(ours, upstream)


@pytest.mark.parametrize("count", [9, 11001])  # upstream's steps, and ours
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_logits_of_a_user(count, dtype):
    head = built("MoCo").head
    generator = torch.Generator().manual_seed(4)
    logits = [2 * torch.randn(7, n, generator=generator).to(dtype) for n in (1, count)]

    def run(dtype=dtype):
        leaves = [x.to(dtype).requires_grad_() for x in logits]
        loss = head.loss(*leaves)
        return loss, *torch.autograd.grad(3 * loss, leaves)

    ours, upstream = with_and_without(run)
    if dtype != torch.bfloat16:
        torch.testing.assert_close(ours, upstream)
        return
    for found, theirs, true in zip(ours, upstream, run(torch.float64), strict=True):
        assert found.dtype == theirs.dtype
        assert (found - true).norm() <= 2 * (theirs - true).norm()


@pytest.mark.parametrize("start", [0, 4, 8])
def test_a_queue_moves_on_without_the_host(start):
    """The steps that a GPU takes, against upstream's on the CPU."""
    keys = torch.randn(4, 16, dtype=torch.float64)
    model = built("MoCo", queue_len=12)
    model.queue_ptr.fill_(start)
    queue, pointer = model.queue.clone(), model.queue_ptr.clone()
    _enqueue_on_device(queue, pointer, keys)
    with integration.disable():
        model._dequeue_and_enqueue(keys)
    assert torch.equal(queue, model.queue)
    assert torch.equal(pointer, model.queue_ptr)


def test_checkpoints_go_both_ways():
    for name in ("MoCo", "BYOL"):
        ours, upstream = with_and_without(lambda name=name: trained(built(name), [views_of(name)]))
        with integration.enable(quiet=True):
            built(name).load_state_dict(upstream[1])
        with integration.disable():
            built(name).load_state_dict(ours[1])
