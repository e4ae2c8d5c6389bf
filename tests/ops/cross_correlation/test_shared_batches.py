"""Barlow Twins and Sinkhorn of many processes are those of one process with the whole batch."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.distributed as dist

from ssl_fast import nn, ops
from ssl_fast._testing.processes import run_in_processes
from ssl_fast._testing.samples.cross_correlation import views
from ssl_fast._testing.samples.sinkhorn import cosines

TOTAL = 12
EVEN = {1: [12], 2: [6, 6], 4: [3, 3, 3, 3]}
UNEVEN = {1: [12], 2: [11, 1], 4: [5, 0, 1, 6]}
COLUMNS = [7, 40]  # by columns of the matrix, and by rows


def rows_of(counts, rank):
    return slice(sum(counts[:rank]), sum(counts[: rank + 1]))


def barlow(z0, z1, **options):
    z0, z1 = (z.clone().requires_grad_() for z in (z0, z1))
    loss = ops.barlow_twins_loss(z0, z1, 0.3, **options)
    loss.backward()
    return [loss.detach(), z0.grad, z1.grad]


def found_by_rank(world_size):
    """What this rank finds, for evenly and unevenly divided batches."""
    group, rank = dist.group.WORLD, dist.get_rank()
    found = {}
    for uneven, counts in enumerate((EVEN[world_size], UNEVEN[world_size])):
        rows = rows_of(counts, rank)
        options = {"group": group, "uneven": bool(uneven)}
        for columns in COLUMNS:
            z0, z1 = (z[rows] for z in views(torch.float32, TOTAL, columns))
            found[f"barlow {columns} {uneven}"] = barlow(z0, z1, **options)
            with torch.no_grad():
                value = ops.barlow_twins_loss(z0, z1, 0.3, **options)
            found[f"no gradient {columns} {uneven}"] = value
        for epsilon in (0.05, 0.002):
            scores = cosines(torch.float32, TOTAL, 9)[rows]
            found[f"sinkhorn {epsilon} {uneven}"] = ops.sinkhorn(scores, epsilon, **options)
    rows = rows_of(EVEN[world_size], rank)
    z0, z1 = (z[rows] for z in views(torch.float32, TOTAL, 7))
    found["mmpretrain"] = barlow(z0, z1, group=group, compat="mmpretrain")
    found["module"] = nn.BarlowTwinsLoss(0.3, gather_distributed=True)(z0, z1)
    crops = [crop[rows] for crop in cosines(torch.float32, 3 * TOTAL, 9).split(TOTAL)]
    swav = nn.SwAVLoss(sinkhorn_gather_distributed=True)
    found["swav"] = swav(crops[:2], crops[2:])
    return found


@functools.lru_cache
def found_in(world_size):
    return run_in_processes(found_by_rank, world_size, world_size)


close = functools.partial(torch.testing.assert_close, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("uneven", [0, 1])
@pytest.mark.parametrize("columns", COLUMNS)
def test_barlow_twins(columns, uneven, world_size):
    """A row's gradient reaches parameters from its own rank alone: averaged, it is the batch's."""
    loss, grad0, grad1 = barlow(*views(torch.float32, TOTAL, columns))
    ranks = found_in(world_size)
    for rank in ranks:
        close(rank[f"barlow {columns} {uneven}"][0], loss)
        close(rank[f"no gradient {columns} {uneven}"], loss)
    for i, expected in ((1, grad0), (2, grad1)):
        parts = [rank[f"barlow {columns} {uneven}"][i] for rank in ranks]
        close(torch.cat(parts) / world_size, expected)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("uneven", [0, 1])
@pytest.mark.parametrize("epsilon", [0.05, 0.002])
def test_sinkhorn(epsilon, uneven, world_size):
    expected = ops.sinkhorn(cosines(torch.float32, TOTAL, 9), epsilon)
    parts = [rank[f"sinkhorn {epsilon} {uneven}"] for rank in found_in(world_size)]
    close(torch.cat(parts), expected)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_as_mmpretrain(world_size):
    """Statistics of each rank, C of all, gradients 1 / world_size of what averaging needs."""
    leaves = [z.clone().requires_grad_() for z in views(torch.float32, TOTAL, 7)]
    count = TOTAL // world_size
    matrix = torch.zeros(7, 7)
    for rank in range(world_size):
        parts = [z[rank * count : (rank + 1) * count] for z in leaves]
        h0, h1 = ((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in parts)
        matrix = matrix + h0.T @ h1 / TOTAL
    own = matrix.diagonal()
    loss = (own - 1).square().sum() + 0.3 * (matrix - torch.diag(own)).square().sum()
    loss.backward()
    for rank, found in enumerate(found_in(world_size)):
        close(found["mmpretrain"][0], loss.detach())
        for leaf, part in zip(leaves, found["mmpretrain"][1:], strict=True):
            close(part, leaf.grad[rank * count : (rank + 1) * count])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_modules(world_size):
    ranks = found_in(world_size)
    z0, z1 = views(torch.float32, TOTAL, 7)
    crops = cosines(torch.float32, 3 * TOTAL, 9).split(TOTAL)
    close(ranks[0]["module"], ops.barlow_twins_loss(z0, z1, 0.3))
    close(sum(rank["swav"] for rank in ranks) / world_size, nn.SwAVLoss()(crops[:2], crops[2:]))
