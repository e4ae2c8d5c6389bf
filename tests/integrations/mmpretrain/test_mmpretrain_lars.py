"""LARS takes upstream's steps, and waits for no GPU: it reads no tensor's value."""

import pytest
import torch
from torch import nn

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmpretrain.engine.optimizers import LARS  # noqa: E402

from ssl_fast.integrations import mmpretrain as integration  # noqa: E402
from ssl_fast.integrations.mmpretrain import lars as ours  # noqa: E402
from tests.integrations.mmpretrain.agreement import NoReads, Read  # noqa: E402

OPTIONS = {
    "plain": {},
    "momentum": dict(momentum=0.9, weight_decay=1e-2),
    "dampening": dict(momentum=0.9, dampening=0.3, weight_decay=1e-2),
    "nesterov": dict(momentum=0.9, nesterov=True, eta=0.02),
}


def weights():
    """Of two types; one is 0, one gets no gradient at first, one is in a group of its own."""
    torch.manual_seed(0)
    shapes = [(3, 4), (5,), (2, 3, 2), (4,), (6,)]
    made = [torch.randn(shape) for shape in shapes]
    made[2] = made[2].double()
    made[3].zero_()
    return [nn.Parameter(weight) for weight in made]


def optimizer_of(parameters, **options):
    excluded = dict(params=parameters[-1:], lars_exclude=True, weight_decay=0.0)
    return LARS([dict(params=parameters[:-1]), excluded], lr=0.3, **options)


def with_gradients(parameters, step):
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.randn_like(parameter) if step or number != 1 else None
        if step == 1 and number == 0:
            parameter.grad.zero_()


def run(take_step, options):
    parameters = weights()
    optimizer = optimizer_of(parameters, **options)
    for step in range(4):
        with_gradients(parameters, step)
        take_step(optimizer)
    return [parameter.detach() for parameter in parameters], optimizer.state_dict()


@pytest.mark.parametrize("name", OPTIONS)
def test_steps_and_state(name):
    """The steps that a GPU takes, taken on the CPU, against upstream's."""
    found = run(ours._step, OPTIONS[name])
    with integration.disable():
        upstream = run(lambda optimizer: optimizer.step(), OPTIONS[name])
    torch.testing.assert_close(found[0], upstream[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found[1], upstream[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_state_goes_both_ways(name):
    found = run(ours._step, OPTIONS[name])
    parameters = weights()
    optimizer = optimizer_of(parameters, **OPTIONS[name])
    optimizer.load_state_dict(found[1])
    with_gradients(parameters, 3)
    with integration.disable():
        optimizer.step()
    ours._step(optimizer)


def test_a_closure_has_gradients_and_its_loss_is_returned():
    (parameter,) = parameters = [nn.Parameter(torch.ones(3))]
    optimizer = LARS(parameters, lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert ours._step(optimizer, closure) == 3
    assert (parameter < 1).all()


def test_no_wait_for_the_gpu():
    parameters = weights()
    optimizer = optimizer_of(parameters, **OPTIONS["momentum"])
    with NoReads():
        for step in range(3):
            with_gradients(parameters, step)
            ours._step(optimizer)
        with integration.disable(), pytest.raises(Read):
            optimizer.step()


@pytest.mark.parametrize("enabled_first", [True, False])
def test_hooks_of_the_step_are_called_once(enabled_first, monkeypatch):
    """torch wraps a class's step at its first instance, before or after it is replaced."""
    calls = []
    monkeypatch.setattr(ours, "_is_served", lambda group: True)  # on the CPU too
    with integration.disable():
        monkeypatch.setattr(LARS, "step", unwrapped(LARS.step))
        if not enabled_first:
            optimizer_of(weights())
        with integration.enable(quiet=True):
            parameters = weights()
            optimizer = optimizer_of(parameters)
            with_gradients(parameters, 1)
            optimizer.register_step_post_hook(lambda *args: calls.append("after"))
            optimizer.step()
        assert calls == ["after"]
        assert unwrapped(LARS.step).__code__.co_filename.endswith("lars.py")
        assert "ssl_fast" not in LARS.step.__code__.co_filename


def unwrapped(function):
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_cpu_and_half_weights_are_left_to_upstream(dtype, monkeypatch):
    monkeypatch.setattr(ours, "_step", None)
    monkeypatch.setattr(ours, "_hooked_step", None)
    parameter = nn.Parameter(torch.ones(3, dtype=dtype))
    parameter.grad = torch.ones_like(parameter)
    with integration.enable(quiet=True):
        LARS([parameter], lr=10.0).step()
    assert (parameter < 1).all()
