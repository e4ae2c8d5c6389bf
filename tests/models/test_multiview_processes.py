"""Multi-view models in two processes are those of one process with the whole batch."""

import torch
import torch.distributed as dist

from ssl_fast._testing.processes import run_in_processes
from ssl_fast.models.moco import moco_config, shuffled

from .multiview import METHODS, VIT, model, views

RANKS, TOTAL = 2, 8


def without_norms():
    """A MoCo whose result does not depend on who else is in a process's batch."""
    METHODS["moco-vit"] = (
        moco_config,
        "vit_tiny_patch16_224",
        8,
        dict(hidden_dim=32, out_dim=16, queue_len=12, backbone_options=VIT),
    )
    return model("moco-vit")


def moco_steps(rows):
    """Loss, gradients and queue of the second step, of these rows of the batch."""
    built, batch = without_norms(), [view[rows] for view in views("moco", TOTAL)]
    for _ in range(2):
        built.zero_grad()
        loss = built(batch, mode="loss")["loss"]
        loss.backward()
    gradients = [p.grad for p in built.parameters() if p.requires_grad]
    return [loss.detach(), built.queue.bank, *gradients]


def swav_head(rows):
    """Assignments with a queue, and the gradient of the prototypes."""
    built = model("swav", queue_len=12)
    for _ in range(4):
        built.steps.begin()
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(4, TOTAL, 16, generator=generator), dim=2)
    scores = [built.head(each[rows]) for each in z]
    queued = built._queued(0, len(scores[0]))
    assigned = [built.head.assign(score.detach(), queued) for score in scores[:2]]
    built.head.loss(scores, assigned).backward()
    return [built.head.prototypes.weight.grad, assigned[0]]


def in_this_process():
    rank = dist.get_rank()
    count = TOTAL // RANKS
    rows = slice(rank * count, (rank + 1) * count)
    images = torch.arange(count * 3.0).view(count, 3) + 100 * rank
    # The encoder tells in which process, and at which place there, an image was.
    places = shuffled(lambda x: (x, torch.arange(count) + 100 * rank), images, seed=5)
    model("moco")(views("moco", count), mode="loss")  # with batch norms: goes through `shuffled`
    return {
        "moco": moco_steps(rows),
        "swav": swav_head(rows),
        "shuffled": [images, *places],
    }


def averaged(results, name, index):
    return sum(result[name][index] for result in results) / RANKS


def test_in_two_processes():
    results = run_in_processes(in_this_process, RANKS)
    whole = moco_steps(slice(None))
    for index, expected in enumerate(whole):
        torch.testing.assert_close(averaged(results, "moco", index), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(results[0]["moco"][1], results[1]["moco"][1])  # the queue
    gradient, assigned = swav_head(slice(None))
    torch.testing.assert_close(averaged(results, "swav", 0), gradient, rtol=1e-4, atol=1e-6)
    both = torch.cat([result["swav"][1] for result in results])
    torch.testing.assert_close(both, assigned)
    places = torch.cat([result["shuffled"][2] for result in results])
    assert sorted(places.tolist()) == [0, 1, 2, 3, 100, 101, 102, 103]
    assert places.tolist() != sorted(places.tolist())
    for result in results:
        images, encoded, _ = result["shuffled"]
        assert torch.equal(encoded, images)
