"""open_clip's losses over two processes, with our hot paths and without."""

import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from ssl_fast._testing.processes import run_in_processes
from tests.integrations.peers import require

require("open_clip")
from open_clip import loss as theirs  # noqa: E402

from ssl_fast import ops  # noqa: E402
from ssl_fast.integrations import open_clip as integration  # noqa: E402

RANKS, ROWS, DIM = 2, 6, 8
CLIP = [
    {"local_loss": local, "gather_with_grad": gather}
    for local in (False, True)
    for gather in (False, True)
]
SIGLIP = [{"dist_impl": name} for name in ("bidir", "shift", "reduce", "gather")]


def global_batch():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, RANKS * ROWS, DIM, generator=generator)
    return [*torch.nn.functional.normalize(rows, dim=-1), torch.tensor(5.0), torch.tensor(-2.0)]


def value_and_gradients(loss, rank=None):
    """Of this process's rows. Gradients of scale and bias are averaged over processes."""
    arguments = global_batch()
    if rank is not None:
        arguments[:2] = [x[rank * ROWS : (rank + 1) * ROWS] for x in arguments[:2]]
    leaves = [x.clone().requires_grad_() for x in arguments]
    value = loss(*leaves)
    gradients = list(torch.autograd.grad(value, leaves))
    if rank is not None:
        for gradient in gradients[2:]:
            dist.all_reduce(gradient)
            gradient /= RANKS
    return [value.detach(), *gradients]


def all_results():
    """By class and options: theirs, ours in their place, ours with the right gradients, ours."""
    integration.WORTHWHILE_CLIP = integration.WORTHWHILE_SIGLIP = 1
    rank = dist.get_rank()
    results = []
    for name, every in (("ClipLoss", CLIP), ("SigLipLoss", SIGLIP)):
        for options in every:
            options = {**options, "rank": rank, "world_size": RANKS}
            loss = getattr(theirs, name)(**options)
            row = [value_and_gradients(loss, rank)]
            for correct in (False, True):
                with integration.enable(correct=correct, quiet=True):
                    row.append(value_and_gradients(loss, rank))
            row.append(value_and_gradients(getattr(integration, name)(**options), rank))
            results.append(row)
    return results


@pytest.fixture(scope="module")
def results():
    """[loss][what][rank]: lists of the value and the gradients."""
    return [
        list(zip(*rows, strict=True))
        for rows in zip(*run_in_processes(all_results, RANKS), strict=True)
    ]


def expected_of_one_process(op):
    value, image, text, *others = value_and_gradients(op)
    # Each process's gradients are averaged by DistributedDataParallel afterwards.
    pairs = zip((RANKS * image).chunk(RANKS), (RANKS * text).chunk(RANKS), strict=True)
    return value, [[*pair, *others] for pair in pairs]


@pytest.mark.parametrize("index", range(len(CLIP)))
def test_clip(results, index):
    original, patched, correct, ours = results[index]
    for rank in range(RANKS):
        assert_close(patched[rank], original[rank])
    value, gradients = expected_of_one_process(
        lambda image, text, scale, bias: ops.clip_loss(image, text, scale, logit_bias=bias)
    )
    for found in (correct, ours):
        assert_close(sum(part[0] for part in found) / RANKS, value)
        for rank in range(RANKS):
            assert_close(found[rank][1:], gradients[rank])
    if not CLIP[index]["local_loss"]:
        for rank in range(RANKS):
            assert_close(correct[rank][0], value)


def test_the_default_gradients_are_too_small_for_the_features_alone(results):
    original, _, correct, _ = results[0]
    for rank in range(RANKS):
        for theirs_, right in zip(original[rank][1:3], correct[rank][1:3], strict=True):
            assert_close(RANKS * theirs_, right)
        assert_close(original[rank][3], correct[rank][3])


@pytest.mark.parametrize("index", range(len(SIGLIP)))
def test_siglip(results, index):
    original, *others = results[len(CLIP) + index]
    value, gradients = expected_of_one_process(ops.siglip_loss)
    for found in (original, *others):
        assert_close(sum(part[0] for part in found) / RANKS, value)
        for rank in range(RANKS):
            assert_close(found[rank], original[rank])
            assert_close(found[rank][1:], gradients[rank])
