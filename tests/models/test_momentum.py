"""Momentum encoders: the formula, the schedule, when they move."""

import math

import pytest
import torch
from torch import nn

from ssl_fast.models import MomentumEncoder
from ssl_fast.models.momentum import StepCounter

from .multiview import model, views


def online():
    torch.manual_seed(0)
    return nn.Linear(3, 4), nn.BatchNorm1d(4)


def change(*modules):
    with torch.no_grad():
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.add_(1)


@pytest.mark.parametrize(("schedule", "share"), [("constant", 1.0), ("cosine", 0.75)])
def test_weights_follow_and_buffers_are_copied(schedule, share):
    modules, steps = online(), StepCounter(total=6)
    encoder = MomentumEncoder(*modules, momentum=0.1, schedule=schedule)
    change(*modules)  # as if they had been initialised after the encoder was made
    steps.begin()
    encoder.follow(*modules, steps=steps)
    for ours, theirs in zip(
        encoder.module.parameters(), nn.Sequential(*modules).parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad
    before = [parameter.clone() for parameter in encoder.module.parameters()]
    change(*modules)
    steps.begin()
    steps.begin()  # the third of six steps: a third of the way
    encoder.follow(*modules, steps=steps)
    for old, ours, theirs in zip(
        before, encoder.module.parameters(), nn.Sequential(*modules).parameters(), strict=True
    ):
        torch.testing.assert_close(ours, old + 0.1 * share * (theirs - old))
    for ours, theirs in zip(
        encoder.module.buffers(), nn.Sequential(*modules).buffers(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_schedules():
    cosine = MomentumEncoder(*online(), momentum=0.004, schedule="cosine")
    assert [cosine.momentum_at(x) for x in (0, 0.5, 1)] == pytest.approx([0.004, 0.002, 0])
    # 1 - (1 - 0.996) * (cos(pi * k / K) + 1) / 2, the paper's
    paper = 1 - (1 - 0.996) * (math.cos(math.pi * 0.3) + 1) / 2
    assert 1 - cosine.momentum_at(0.3) == pytest.approx(paper)
    assert MomentumEncoder(*online(), momentum=0.004).momentum_at(0.9) == 0.004


def test_steps():
    steps = StepCounter()
    assert [steps.begin() for _ in range(3)] == [True, True, True]
    assert (steps.count, steps.progress) == (3, 0.0)
    steps.tell(3, total=8)
    assert [steps.begin() for _ in range(3)] == [True, False, False]  # parts of one step
    steps.tell(4, total=8)
    assert steps.begin()
    assert (steps.count, steps.progress) == (5, 0.5)
    assert (steps.over(4), steps.over(5)) == (True, False)
    other = StepCounter()
    other.load_state_dict(steps.state_dict())
    assert other.count == 5


def test_the_encoder_follows_once_a_step():
    built, batch = model("byol", base_momentum=0.5), views("byol")
    name = "backbone.model.layer4.0.conv1.weight"
    weight, target = (
        built.get_parameter(name),
        built.get_parameter(name.replace("backbone", "target_net.module.0", 1)),
    )
    moved = []
    for step in (0, 1, 1, 2):
        before = target.clone()
        with torch.no_grad():
            weight.add_(0.1)
        built.steps.tell(step, total=100)
        built(batch, mode="loss")
        moved.append(not torch.equal(before, target))
    assert moved == [True, True, False, True]


def test_a_model_initialised_later_is_what_the_encoder_begins_with():
    built = model("moco")
    change(built.backbone, built.neck)
    built(views("moco"), mode="loss")
    pairs = zip(built.encoder_k.module[1].parameters(), built.neck.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("momentum", [0.996, -0.1])
def test_the_other_convention_is_not_taken(momentum):
    with pytest.raises(ValueError, match=rf"momentum is {momentum}; accepted are 0 to 0.5"):
        MomentumEncoder(nn.Linear(1, 1), momentum=momentum)


def test_wrong_schedule():
    with pytest.raises(ValueError, match="schedule is 'linear'; accepted are 'constant' and"):
        MomentumEncoder(nn.Linear(1, 1), schedule="linear")
