"""mmpretrain's losses in two processes: its own numbers, or those of one process with all."""

import functools

import pytest
import torch
import torch.distributed as dist

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmpretrain.models.heads import LatentCrossCorrelationHead  # noqa: E402
from mmpretrain.models.losses import swav_loss  # noqa: E402

from ssl_fast import ops  # noqa: E402
from ssl_fast._testing.processes import run_in_processes  # noqa: E402
from ssl_fast.integrations import mmpretrain as integration  # noqa: E402
from tests.integrations.mmpretrain.contrastive_models import (  # noqa: E402
    built,
    trained,
    views_of,
)

RANKS, TOTAL = 2, 12
EVEN, UNEVEN = [6, 6], [8, 4]
MODELS = ("SimCLR", "MoCo", "DenseCL", "MoCoV3", "BarlowTwins", "SwAV", "BYOL")
STATES = {
    "ours": lambda: integration.enable(quiet=True),
    "upstream": integration.disable,
    "correct": lambda: integration.enable(correct=True, quiet=True),
}


def of_rank(tensor, counts):
    return tensor.split(counts)[dist.get_rank()] if dist.is_initialized() else tensor


def features(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(TOTAL, count, generator=generator, dtype=torch.float64)


def simclr(counts):
    """Loss and gradient of the features alone: batch norms are each process's own."""
    model = built("SimCLR").double()
    model.backbone = torch.nn.Identity()
    model.neck = torch.nn.ModuleList()
    model.neck.forward = lambda z: [z.flatten(1)]
    views = [of_rank(features(16, seed)[:, :, None, None], counts) for seed in (0, 1)]
    views = [view.clone().requires_grad_() for view in views]
    loss = model(views, mode="loss")["loss"]
    return [loss.detach(), *torch.autograd.grad(loss, views)]


def barlow_twins(counts, size=7):
    head = LatentCrossCorrelationHead(size, dict(type="CrossCorrelationLoss", lambd=0.03)).double()
    first = features(size, 0)
    views = [first, first + features(size, 1)]
    views = [of_rank(view, counts).clone().requires_grad_() for view in views]
    loss = head.loss(*views)
    return [loss.detach(), *torch.autograd.grad(loss, views), head.bn.running_var]


def sinkhorn(counts):
    scores = of_rank(features(5, 2).sigmoid(), counts)
    return [swav_loss.distributed_sinkhorn(scores, 3, RANKS, 0.05)]


def in_this_process():
    found = {}
    for state, enter in STATES.items():
        with enter():
            found[f"simclr {state}"] = simclr(EVEN)
            for name, counts in (("even", EVEN), ("uneven", UNEVEN)):
                found[f"barlow twins {name} {state}"] = barlow_twins(counts)
                found[f"sinkhorn {name} {state}"] = sinkhorn(counts)
            for name in MODELS:
                batches = [[v.double() for v in views_of(name, 4, seed)] for seed in range(2)]
                batches = [[v + 0.1 * dist.get_rank() for v in views] for views in batches]
                found[f"{name} {state}"] = trained(built(name).double(), batches)
    return found


@functools.lru_cache
def found_by_ranks():
    return run_in_processes(in_this_process, RANKS)


close = functools.partial(torch.testing.assert_close, rtol=1e-7, atol=1e-9)
PARTS = (
    "simclr",
    *(f"{op} {name}" for op in ("barlow twins", "sinkhorn") for name in ("even", "uneven")),
)


@pytest.mark.parametrize("name", [*PARTS, *MODELS])
def test_each_process_finds_what_upstream_finds(name):
    for found in found_by_ranks():
        close(found[f"{name} ours"], found[f"{name} upstream"])


@pytest.mark.parametrize("name", PARTS)
def test_correct_is_one_process_with_all(name):
    op = name.removesuffix(" even").removesuffix(" uneven")
    ranks = [found[f"{name} correct"] for found in found_by_ranks()]
    with integration.disable():
        whole = {"simclr": simclr, "barlow twins": barlow_twins, "sinkhorn": sinkhorn}[op](None)
    if op == "sinkhorn":
        close(torch.cat([rank[0] for rank in ranks]), whole[0])
        return
    close(sum(rank[0] for rank in ranks) / RANKS, whole[0])
    for index in (1, 2):
        # What averaging over processes makes of the gradients of a weight before.
        close(torch.cat([rank[index] for rank in ranks]) / RANKS, whole[index])


def test_upstream_differs_from_one_process_with_all():
    """Else the test before would show nothing."""
    ranks = [found["simclr upstream"] for found in found_by_ranks()]
    with integration.disable():
        whole = simclr(None)
    close(torch.cat([rank[1] for rank in ranks]), whole[1])
    own = ops.sinkhorn(features(5, 2).sigmoid().split(EVEN)[0], 0.05)
    close(found_by_ranks()[0]["sinkhorn even upstream"][0], own)
