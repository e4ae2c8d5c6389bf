"""The sum of the losses and what is logged, through the model's method."""

import pytest
import torch
from torch import nn

from ssl_fast.models import BaseSelfSupervisor


class Model(BaseSelfSupervisor):
    def loss(self, inputs, data_samples):
        return {}


def parse(losses):
    total, logged = Model(nn.Identity()).parse_losses(losses)
    return total.item(), {name: value.item() for name, value in logged.items()}


def test_a_lone_loss():
    assert parse({"loss": torch.tensor([1.0, 3.0])}) == (2.0, {"loss": 2.0})


def test_lists_are_sums_of_means():
    parts = [torch.tensor([1.0, 3.0]), torch.tensor(5.0)]
    assert parse({"loss_x": parts}) == (7.0, {"loss": 7.0, "loss_x": 7.0})


def test_what_is_no_loss_is_logged_but_not_added():
    losses = {"accuracy": torch.tensor(0.5), "loss": torch.tensor(2.0)}
    total, logged = parse(losses)
    assert (total, logged) == (2.0, {"loss": 2.0, "accuracy": 0.5})


def test_the_total_is_logged_as_loss_and_the_own_as_loss_main():
    losses = {"loss": torch.tensor(2.0), "aux_loss": torch.tensor(1.0), "norm": torch.tensor(9.0)}
    total, logged = parse(losses)
    assert total == 3.0
    assert list(logged.items()) == [
        ("loss", 3.0),
        ("loss_main", 2.0),
        ("aux_loss", 1.0),
        ("norm", 9.0),
    ]


def test_loss_main_is_taken():
    losses = {"loss": torch.tensor(2.0), "loss_main": torch.tensor(1.0)}
    with pytest.raises(ValueError, match="both 'loss' and 'loss_main'"):
        parse(losses)
    assert parse({"loss_main": torch.tensor(1.0)}) == (1.0, {"loss": 1.0, "loss_main": 1.0})


def test_the_total_has_a_gradient_and_the_log_has_none():
    weight = torch.ones(2, requires_grad=True)
    losses = {"loss": weight.sum(), "loss_b": [weight.prod()]}
    total, logged = Model(nn.Identity()).parse_losses(losses)
    total.backward()
    assert weight.grad.tolist() == [2.0, 2.0]
    assert not any(value.requires_grad for value in logged.values())


@pytest.mark.parametrize("value", [1.0, None, [], [1.0], (torch.ones(1),), {"a": torch.ones(1)}])
def test_another_value_is_named(value):
    with pytest.raises(TypeError, match=r"^loss_b is not a tensor or list of tensors$"):
        parse({"loss": torch.ones(1), "loss_b": value})


def test_no_loss_at_all():
    with pytest.raises(ValueError, match="no key of the losses contains 'loss'; they are a, b"):
        parse({"a": torch.ones(1), "b": torch.ones(1)})
    with pytest.raises(ValueError, match="they are nothing"):
        parse({})


def test_losses_that_are_no_dict():
    with pytest.raises(TypeError, match=r"loss\(\) returned a Tensor; expected a dict"):
        parse(torch.ones(1))
