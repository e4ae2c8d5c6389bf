"""init_cfg: each type does what it says to the layers it names, and to no others."""

import math

import pytest
import torch
from torch import nn

from ssl_fast.models.initializers import initialize, split_init_cfg


class MyLinear(nn.Linear):
    pass


def layers():
    return nn.ModuleDict(
        {
            "linear": nn.Linear(200, 100),
            "derived": MyLinear(200, 100),
            "conv": nn.Conv2d(10, 20, 5),
            "norm": nn.BatchNorm2d(3),
            "bare": nn.LayerNorm(3, elementwise_affine=False),
        }
    )


def test_constant_reaches_the_class_and_what_derives_from_it():
    parts = layers()
    before = parts["conv"].weight.clone()
    initialize(parts, dict(type="Constant", layer="Linear", val=2.0, bias=3.0))
    for name in ("linear", "derived"):
        assert parts[name].weight.eq(2).all()
        assert parts[name].bias.eq(3).all()
    assert torch.equal(parts["conv"].weight, before)
    assert parts["norm"].weight.eq(1).all()


def test_several_layers_and_bases():
    parts = layers()
    initialize(parts, dict(type="Constant", layer=["_BatchNorm", "LayerNorm"], val=5.0))
    assert parts["norm"].weight.eq(5).all()
    assert parts["norm"].bias.eq(0).all()


def test_bias_prob():
    parts = layers()
    initialize(parts, dict(type="Constant", layer="Linear", val=0.0, bias_prob=0.01))
    torch.testing.assert_close(parts["linear"].bias.sigmoid(), torch.full((100,), 0.01))


LINEAR_FANS = 200, 100
CONV_FANS = 250, 500  # 10 and 20 channels times 5 x 5


@pytest.mark.parametrize(
    ("options", "layer", "std"),
    [
        (dict(type="Normal", std=0.3), "linear", 0.3),
        (dict(type="TruncNormal", std=0.02), "linear", 0.02),
        (dict(type="Uniform", a=-0.3, b=0.3), "linear", 0.6 / math.sqrt(12)),
        (dict(type="Xavier"), "linear", math.sqrt(2 / sum(LINEAR_FANS))),
        (dict(type="Xavier", distribution="uniform", gain=2), "conv", 2 * math.sqrt(2 / 750)),
        (dict(type="Kaiming"), "conv", math.sqrt(2 / CONV_FANS[1])),
        (dict(type="Kaiming", mode="fan_in", distribution="uniform"), "conv", math.sqrt(2 / 250)),
        (dict(type="Kaiming", a=1, nonlinearity="leaky_relu"), "conv", math.sqrt(1 / 500)),
    ],
)
def test_what_is_drawn_has_the_right_spread(options, layer, std):
    torch.manual_seed(0)
    parts = layers()
    name = {"linear": "Linear", "conv": "Conv2d"}[layer]
    nn.init.ones_(parts[layer].bias)
    initialize(parts, dict(layer=name, **options))
    weight = parts[layer].weight
    assert weight.std().item() == pytest.approx(std, rel=0.05)
    assert abs(weight.mean().item()) < std / 20
    assert parts[layer].bias.eq(0).all()


def test_normal_has_a_mean_and_truncation_limits():
    torch.manual_seed(0)
    parts = layers()
    initialize(parts, dict(type="Normal", layer="Linear", mean=4.0, std=0.1))
    assert parts["linear"].weight.mean().item() == pytest.approx(4.0, abs=0.01)
    initialize(parts, dict(type="TruncNormal", layer="Linear", std=1.0, a=-0.5, b=0.25))
    assert -0.5 <= parts["linear"].weight.min() <= parts["linear"].weight.max() <= 0.25


def test_pretrained_loads(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model.weight": torch.eye(2), "model.bias": torch.ones(2)}, path)
    linear = nn.Linear(2, 2)
    initialize(linear, dict(type="Pretrained", checkpoint=path, prefix="model."))
    assert torch.equal(linear.weight, torch.eye(2))


def test_split_keeps_the_order():
    a, b, c = dict(type="Normal"), dict(type="Pretrained"), dict(type="Constant")
    assert split_init_cfg([a, b, c]) == ([a, c], [b])
    assert split_init_cfg(a) == ([a], [])
    assert split_init_cfg(None) == ([], [])


@pytest.mark.parametrize(
    ("init_cfg", "error", "text"),
    [
        ("Normal", TypeError, "init_cfg is a str; expected a dict, a list of dicts or None"),
        (["Normal"], TypeError, "init_cfg has a str in its list; expected dicts"),
        (dict(std=1), ValueError, "init_cfg has type None; accepted are Constant, Normal, "),
        (dict(type="Zeros"), ValueError, "type 'Zeros'; accepted are .*Kaiming, Pretrained"),
    ],
)
def test_configs_that_are_refused(init_cfg, error, text):
    with pytest.raises(error, match=text):
        split_init_cfg(init_cfg)


@pytest.mark.parametrize(
    ("cfg", "text"),
    [
        (dict(type="Normal"), "init_cfg of type Normal has no layer"),
        (dict(type="Normal", layer="Linear", val=1), "type Normal has options {'val': 1}: .*'val'"),
        (dict(type="Constant", layer="Linear"), "type Constant has options {}: .*'val'"),
        (dict(type="Pretrained"), "type Pretrained has options {}: .*'checkpoint'"),
        (dict(type="Xavier", layer="Linear", distribution="cauchy"), "distribution is 'cauchy'"),
    ],
)
def test_options_that_are_refused(cfg, text):
    with pytest.raises(ValueError, match=text):
        initialize(layers(), cfg)
