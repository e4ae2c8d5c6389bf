"""lightly's losses over two processes, with our hot paths and without."""

import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from ssl_fast._testing.processes import run_in_processes
from tests.integrations.peers import require

require("lightly")
from lightly import loss as theirs  # noqa: E402

from ssl_fast import ops  # noqa: E402
from ssl_fast.integrations import lightly as integration  # noqa: E402

RANKS, ROWS, DIM = 2, 6, 8
NAMES = ["NTXentLoss", "bank", "BarlowTwinsLoss", "SwaVLoss"]


def rows(seed, rank=None):
    x = torch.randn(RANKS * ROWS, DIM, generator=torch.Generator().manual_seed(seed))
    return (x if rank is None else x[rank * ROWS : (rank + 1) * ROWS].clone()).requires_grad_()


def make(name):
    torch.manual_seed(0)
    if name == "bank":
        return theirs.NTXentLoss(0.2, memory_bank_size=(30, DIM), gather_distributed=True)
    if name == "SwaVLoss":
        return theirs.SwaVLoss(0.2, sinkhorn_epsilon=0.5, sinkhorn_gather_distributed=True)
    return getattr(theirs, name)(gather_distributed=True)


def results_of(name, correct=None):
    """The value, gradients and, if there is one, the bank; `correct` None for lightly's own."""
    leaves = [rows(seed, dist.get_rank()) for seed in range(3)]
    loss = make(name)
    context = (
        integration.disable()
        if correct is None
        else integration.enable(correct=correct, quiet=True)
    )
    with context:
        value = loss(leaves[:2], leaves[2:]) if name == "SwaVLoss" else loss(*leaves[:2])
        gradients = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    found = [value.detach(), *(x for x in gradients if x is not None)]
    return [*found, loss.memory_bank.bank] if name == "bank" else found


def all_results():
    return [[results_of(name, correct) for correct in (None, False, True)] for name in NAMES]


@pytest.fixture(scope="module")
def results():
    """{name: [rank][what]}"""
    return dict(zip(NAMES, zip(*run_in_processes(all_results, RANKS), strict=True), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_in_place_of_lightlys(results, name):
    for original, patched, correct in results[name]:
        assert_close(patched, original)
        if name != "BarlowTwinsLoss":
            assert_close(correct, original)


def expected_of_one_process(op):
    leaves = [rows(seed) for seed in range(2)]
    value = op(*leaves)
    gradients = torch.autograd.grad(value, leaves)
    return value.detach(), [(RANKS * x).chunk(RANKS) for x in gradients]


def test_ntxent_is_of_the_global_batch(results):
    value, gradients = expected_of_one_process(lambda a, b: ops.nt_xent(a, b, 0.5))
    found = [own[1] for own in results["NTXentLoss"]]
    assert_close(sum(own[0] for own in found) / RANKS, value)
    for rank, own in enumerate(found):
        assert_close(own[1:], [x[rank] for x in gradients])


def test_barlow_twins_is_of_the_global_batch_with_correct_alone(results):
    value, gradients = expected_of_one_process(lambda a, b: ops.barlow_twins_loss(a, b, 5e-3))
    for rank, (original, _, correct) in enumerate(results["BarlowTwinsLoss"]):
        assert_close(correct[0], value)
        assert_close(correct[1:], [x[rank] for x in gradients])
        assert not torch.allclose(original[0], value)


def test_the_bank_takes_keys_of_all(results):
    first, second = (own[1][-1] for own in results["bank"])
    assert torch.equal(first, second)
    keys = torch.nn.functional.normalize(rows(1).detach(), dim=1)
    assert_close(first[: RANKS * ROWS], keys)
