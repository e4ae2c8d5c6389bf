"""Losses of many processes are those of one process with the whole batch."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from ssl_fast import nn, ops
from ssl_fast._testing.processes import run_in_processes

EVEN = {1: [8], 2: [4, 4], 4: [2, 2, 2, 2]}
UNEVEN = {1: [8], 2: [7, 1], 4: [3, 0, 1, 4]}
TOTAL, DIM = 8, 5


def whole():
    """Two views of the whole batch, a queue, a temperature and a bias."""
    generator = torch.Generator().manual_seed(0)
    z0, z1 = torch.randn(2, TOTAL, DIM, generator=generator)
    queue = F.normalize(torch.randn(11, DIM, generator=generator), dim=1)
    return z0, z1 + z0, queue


# name -> (z0, z1, queue, t, b, **group) -> loss; t is a temperature
LOSSES = {
    "nt_xent": lambda z0, z1, queue, t, b, **group: ops.nt_xent(z0, z1, t, **group),
    "nt_xent, not normalized": lambda z0, z1, queue, t, b, **group: ops.nt_xent(
        z0, z1, t, normalize=False, **group
    ),
    "info_nce": lambda z0, z1, queue, t, b, **group: ops.info_nce(z0, z1, None, t, **group),
    "info_nce, fixed keys": lambda z0, z1, queue, t, b, **group: ops.info_nce(
        z0, z1.detach(), None, t, **group
    ),
    "info_nce_queue": lambda z0, z1, queue, t, b, **group: ops.info_nce_queue(
        z0, z1, queue, t, **group
    ),
    "clip_loss": lambda z0, z1, queue, t, b, **group: ops.clip_loss(
        z0, z1, 1 / t, logit_bias=b, **group
    ),
    "siglip_loss": lambda z0, z1, queue, t, b, **group: ops.siglip_loss(z0, z1, 1 / t, b, **group),
}


def results(loss, z0, z1, queue, **group):
    """The loss and its gradients to both views, temperature and bias."""
    leaves = [x.clone().requires_grad_() for x in (z0, z1, torch.tensor(0.7), torch.tensor(-1.0))]
    value = loss(leaves[0], leaves[1], queue, leaves[2], leaves[3], **group)
    value.backward()
    gradients = (torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)
    return [value.detach(), *gradients]


def shares(counts_of_ranks):
    """What each loss gives this rank, for evenly and unevenly divided batches."""
    rank, group = dist.get_rank(), dist.group.WORLD
    z0, z1, queue = whole()
    found = {}
    for uneven, counts in enumerate(counts_of_ranks):
        rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        for name, loss in LOSSES.items():
            options = {"group": group, "uneven": bool(uneven)}
            found[f"{name}, {uneven}"] = results(loss, z0[rows], z1[rows], queue, **options)
    rows = slice(sum(EVEN[len(counts)][:rank]), sum(EVEN[len(counts)][: rank + 1]))
    for name, loss in upstream_cases().items():
        found[name] = results(loss, z0[rows], z1[rows], queue)
    return found


def upstream_cases():
    """What takes no group: mmpretrain's scaling, and the modules."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    place = {"rank": dist.get_rank() if world > 1 else 0, "world_size": world}
    group = dist.group.WORLD if dist.is_initialized() else None
    return {
        "mmpretrain": lambda z0, z1, queue, t, b: ops.nt_xent(
            z0, z1, t, group=group, compat="mmpretrain"
        ),
        "NTXentLoss": lambda z0, z1, queue, t, b: nn.NTXentLoss(0.7, gather_distributed=True)(
            z0, z1
        ),
        "InfoNCELoss": lambda z0, z1, queue, t, b: nn.InfoNCELoss(0.7, gather_distributed=True)(
            z0, z1
        ),
        "ClipLoss": lambda z0, z1, queue, t, b: nn.ClipLoss(**place)(z0, z1, 1 / t),
        "SigLipLoss": lambda z0, z1, queue, t, b: nn.SigLipLoss(**place)(z0, z1, 1 / t, b),
    }


@functools.lru_cache
def found_in(world_size):
    return run_in_processes(shares, world_size, (EVEN[world_size], UNEVEN[world_size]))


def assert_equal_to_one_process(name, loss, world_size):
    """Averaged over ranks, as DistributedDataParallel averages the gradients of parameters.

    A row's gradient reaches parameters from its own rank alone, so that it is world_size times as
    large there.
    """
    ranks = [found[name] for found in found_in(world_size)]
    value, grad0, grad1, grad_t, grad_b = results(loss, *whole())
    close = functools.partial(torch.testing.assert_close, rtol=2e-5, atol=2e-6)
    close(sum(rank[0] for rank in ranks) / world_size, value)
    close(torch.cat([rank[1] for rank in ranks]) / world_size, grad0)
    close(torch.cat([rank[2] for rank in ranks]) / world_size, grad1)
    close(sum(rank[3] for rank in ranks) / world_size, grad_t)
    close(sum(rank[4] for rank in ranks) / world_size, grad_b)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("uneven", [0, 1])
@pytest.mark.parametrize("name", LOSSES)
def test_equal_to_one_process(name, uneven, world_size):
    assert_equal_to_one_process(f"{name}, {uneven}", LOSSES[name], world_size)


@pytest.mark.parametrize("name", ["NTXentLoss", "InfoNCELoss", "ClipLoss", "SigLipLoss"])
def test_modules(name):
    assert_equal_to_one_process(name, upstream_cases()[name], 2)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_mmpretrains_scaling(world_size):
    """Each rank has the global loss, and a row the gradient that one process gives it."""
    ranks = [found["mmpretrain"] for found in found_in(world_size)]
    value, grad0, grad1, grad_t, _ = results(LOSSES["nt_xent"], *whole())
    for rank in ranks:
        torch.testing.assert_close(rank[0], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(rank[3], grad_t, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([rank[1] for rank in ranks]), grad0, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([rank[2] for rank in ranks]), grad1, rtol=2e-5, atol=1e-6)


def one_leaves():
    if dist.get_rank() == 1:
        return "left"  # as a process does that raises before the loss
    z = torch.randn(4, DIM, requires_grad=True)
    try:
        ops.nt_xent(z, z, group=dist.group.WORLD)
    except RuntimeError as error:
        return str(error)
    return "no error"


def test_ranks_do_not_wait_for_one_that_has_left():
    message, left = run_in_processes(one_leaves, 2, timeout=20)
    assert left == "left"
    assert message not in ("", "no error")


def none_has_rows():
    z = torch.zeros(0, DIM, requires_grad=True)
    return ops.nt_xent(z, z, group=dist.group.WORLD, uneven=True)


def test_no_rows_anywhere():
    with pytest.raises(mp.ProcessRaisedException, match="no process has rows"):
        run_in_processes(none_has_rows, 2)
