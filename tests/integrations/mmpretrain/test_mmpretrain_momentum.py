"""Momentum encoders follow as upstream's do, and wait for no GPU: they read no tensor's value."""

import copy

import pytest
import torch
from torch import nn

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmengine.logging import MessageHub  # noqa: E402
from mmengine.model import (  # noqa: E402
    ExponentialMovingAverage,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
)
from mmpretrain.models.utils import CosineEMA  # noqa: E402

from ssl_fast.integrations import mmpretrain as integration  # noqa: E402
from ssl_fast.integrations.mmpretrain import momentum as ours  # noqa: E402
from tests.integrations.mmpretrain.agreement import NoReads, Read  # noqa: E402

pytestmark = pytest.mark.smoke
AVERAGES = {
    "constant": lambda model: ExponentialMovingAverage(model, 0.1),
    "large": lambda model: ExponentialMovingAverage(model, 0.7),
    "interval": lambda model: ExponentialMovingAverage(model, 0.1, interval=2),
    "cosine": lambda model: CosineEMA(model, 0.1, end_momentum=0.01),
}


def encoder():
    """Weights of two types, statistics and a count of batches."""
    return nn.Sequential(nn.BatchNorm2d(4), nn.LayerNorm(5, dtype=torch.float64))


def moved(model, step):
    """The model after a step of training: other weights and statistics."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.add_(1)
    return model


def states(make, update, steps=5):
    MessageHub.get_current_instance().update_info("max_iters", 7)
    torch.manual_seed(0)
    model = encoder()
    average, found = make(model), []
    for step in range(steps):
        update(average, moved(model, step))
        found.append(copy.deepcopy(average.state_dict()))
    return found


@pytest.mark.parametrize("name", AVERAGES)
def test_weights_statistics_and_count(name):
    """The steps that a GPU takes, taken on the CPU, against upstream's."""
    found = states(AVERAGES[name], ours._update)
    with integration.disable():
        upstream = states(AVERAGES[name], lambda average, model: average.update_parameters(model))
    torch.testing.assert_close(found, upstream, rtol=0, atol=0)


def test_the_count_is_read_again_when_others_wrote_it():
    model = encoder()
    average = AVERAGES["constant"](model)
    for step in range(3):
        ours._update(average, moved(model, step))
    assert ours._steps(average) == 3
    state = average.state_dict()
    state["steps"] = torch.tensor(17)
    average.load_state_dict(state)
    assert ours._steps(average) == 17
    ours._update(average, model)
    assert ours._steps(average) == int(average.steps) == 18
    average.steps = torch.tensor(5)
    assert ours._steps(average) == 5
    assert ours._steps(copy.deepcopy(average)) == 5


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_no_wait_for_the_gpu(name):
    MessageHub.get_current_instance().update_info("max_iters", 7)
    model = encoder()
    average = AVERAGES[name](model)
    ours._update(average, model)  # counts the steps
    with NoReads():
        ours._update(average, model)
        ours._update(average, model)
        assert ours._steps(average) == 3
        with integration.disable(), pytest.raises(Read):
            average.update_parameters(model)


@pytest.mark.parametrize(
    "make",
    [
        lambda model: ExponentialMovingAverage(model, 0.1, update_buffers=True),
        lambda model: MomentumAnnealingEMA(model, 0.1),
        StochasticWeightAverage,
    ],
)
def test_other_averages_are_left_to_upstream(make, monkeypatch):
    monkeypatch.setattr(ours, "_update", None)
    with integration.enable(quiet=True):
        found = states(make, lambda average, model: average.update_parameters(model))
    with integration.disable():
        upstream = states(make, lambda average, model: average.update_parameters(model))
    torch.testing.assert_close(found, upstream, rtol=0, atol=0)
