"""All self-supervised algorithms of mmpretrain, two steps each, with the integration and without.

The random numbers are the same, so that losses, gradients and weights are too.
"""

import pytest
import torch

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from ssl_fast.integrations import mmpretrain as integration  # noqa: E402
from tests.integrations.mmpretrain.algorithms import ALGORITHMS  # noqa: E402
from tests.integrations.mmpretrain.building import (  # noqa: E402
    batch_of,
    build,
    config_of,
    optimizer_of,
)

pytestmark = pytest.mark.smoke

UPSTREAM = {
    *("BYOL", "BEiT", "BarlowTwins", "CAE", "DenseCL", "EVA", "MAE", "MFF", "MILAN", "MaskFeat"),
    *("MixMIM", "MoCo", "MoCoV3", "SimCLR", "SimMIM", "SimSiam", "SparK", "SwAV", "iTPN"),
}


def two_steps(name, enabled):
    """Losses, gradients (by step) and the state after both steps."""
    with integration.enable(quiet=True) if enabled else integration.disable():
        torch.manual_seed(0)
        size = ALGORITHMS[name].small
        model = build(name, size)
        optimizer = optimizer_of(name, size, model)
        for group in optimizer.optimizer.param_groups:
            group["lr"] *= 0.01  # those of the configs follow a warm-up
        losses, gradients = [], []

        def keep_gradients(*args):
            named = model.named_parameters()
            gradients.append({key: p.grad.clone() for key, p in named if p.grad is not None})

        optimizer.optimizer.register_step_pre_hook(keep_gradients)
        for seed in (1, 2):
            batch = batch_of(name, size, seed)
            if name == "MaskFeat":
                # Gradients of whole numbers lie on the edges of bins, where rounding decides.
                generator = torch.Generator().manual_seed(seed)
                shape = batch["inputs"].shape
                batch["inputs"] = batch["inputs"] + torch.rand(shape, generator=generator)
            losses.append(model.train_step(batch, optimizer))
        return losses, gradients, model


def assert_near(ours, theirs, tolerance, floor=1e-2):
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        assert ours[key].dtype == expected.dtype, key
        error = (ours[key].double() - expected.double()).abs().max()
        assert error <= tolerance * (floor + expected.double().abs().max()), key


@pytest.fixture(autouse=True)
def patched_again():
    yield
    integration.enable(quiet=True)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_steps_are_those_without_the_integration(name):
    losses, gradients, ours = two_steps(name, enabled=True)
    expected_losses, expected_gradients, theirs = two_steps(name, enabled=False)
    for step, tolerance in ((0, 1e-4), (1, 1e-3)):
        assert_near(losses[step], expected_losses[step], tolerance)
        assert_near(gradients[step], expected_gradients[step], tolerance)
        assert all(torch.isfinite(value).all() for value in losses[step].values())
    assert any(value.any() for value in gradients[1].values())
    # Old checkpoints load, and new ones without us.
    states = (ours.state_dict(), theirs.state_dict())
    assert list(states[0]) == list(states[1])
    # Adam makes steps of its full rate of gradients that are zero but for rounding.
    assert_near(states[0], states[1], 1e-3, floor=0.1)
    ours.load_state_dict(states[1])
    theirs.load_state_dict(states[0])


def test_the_table_has_all_algorithms():
    from mmpretrain.models import selfsup

    base = selfsup.BaseSelfSupervisor
    classes = {
        each.__name__
        for each in vars(selfsup).values()
        if isinstance(each, type) and issubclass(each, base) and each is not base
    }
    assert classes == UPSTREAM
    assert {config_of(name, each.small).model.type for name, each in ALGORITHMS.items()} == UPSTREAM
