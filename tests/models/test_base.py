"""BaseSelfSupervisor: construction, training contract, freezing, weights."""

import contextlib
import copy
import importlib.util
import logging
import pickle

import pytest
import torch
from torch import nn

from ssl_fast.models import (
    MODELS,
    BaseSelfSupervisor,
    SelfSupDataPreprocessor,
    TwoNormDataPreprocessor,
)
from ssl_fast.nn import HOGGenerator

from .toys import Toy, images, plain, toy_config


class FakeOptimWrapper:
    """What train_step needs of mmengine's."""

    def __init__(self, model, lr=0.1):
        self.optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr)
        self.inside = False
        self.log = []

    @contextlib.contextmanager
    def optim_context(self, model):
        self.inside = True
        self.log.append(("context", model))
        yield
        self.inside = False

    def update_params(self, loss):
        self.log.append(("update", self.inside))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def test_one_config_dict_builds_a_whole_model():
    config = toy_config()
    before = copy.deepcopy(config)
    model = MODELS.build(config)
    assert config == before
    assert type(model.data_preprocessor) is SelfSupDataPreprocessor
    assert isinstance(model.target_generator, HOGGenerator)
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx(
        [123.675, 116.28, 103.53]
    )
    assert (model.with_neck, model.with_head, model.with_target_generator) == (True, True, True)


def test_modules_are_taken_as_they_are():
    backbone, neck, preprocessor = nn.Linear(2, 2), nn.Linear(2, 2), nn.Identity()
    model = Toy(backbone, neck, data_preprocessor=preprocessor)
    assert model.backbone is backbone
    assert model.neck is neck
    assert model.data_preprocessor is preprocessor
    assert (model.with_neck, model.with_head, model.with_target_generator) == (True, False, False)


def test_a_preprocessor_with_a_type_of_its_own():
    config = dict(type="TwoNormDataPreprocessor", second_mean=[0], second_std=[255])
    assert type(plain(data_preprocessor=config).data_preprocessor) is TwoNormDataPreprocessor


@pytest.mark.parametrize("component", ["backbone", "neck", "head", "target_generator"])
def test_a_component_of_another_type_is_named(component):
    with pytest.raises(TypeError, match=f"{component} is a list; expected a dict or an nn.Module"):
        Toy(**{"backbone": nn.Identity(), component: [1]})


def test_a_preprocessor_of_another_type_is_named():
    with pytest.raises(TypeError, match="data_preprocessor is a str"):
        plain(data_preprocessor="SelfSupDataPreprocessor")


def test_errors_inside_a_config_name_the_path_of_types():
    config = toy_config()
    config["target_generator"]["nbins"] = 0
    with pytest.raises(ValueError, match=r"^Toy: HOGGenerator: nbins is 0"):
        MODELS.build(config)


def test_a_class_without_loss_is_abstract():
    class NoLoss(BaseSelfSupervisor):
        pass

    with pytest.raises(TypeError, match="abstract"):
        NoLoss(nn.Identity())


def test_state_dict_has_the_components_in_order_and_no_preprocessor():
    keys = list(MODELS.build(toy_config()).state_dict())
    assert keys == [
        "backbone.weight",
        "backbone.bias",
        "neck.weight",
        "neck.bias",
        "target_generator.weight_x",
        "target_generator.weight_y",
        "target_generator.gaussian_kernel",
    ]


def test_forward_modes():
    model = MODELS.build(toy_config())
    batch = model.data_preprocessor.normalize(images())
    torch.testing.assert_close(model(batch), model.backbone(batch))
    torch.testing.assert_close(model(batch, mode="tensor"), model.extract_feat(batch))
    assert set(model(batch, None, mode="loss")) == {"loss"}
    with pytest.raises(RuntimeError, match=r'^Invalid mode "predict"\.$'):
        model(batch, mode="predict")


def test_two_training_steps_lower_the_loss_and_move_only_what_learns():
    torch.manual_seed(0)
    model = MODELS.build(toy_config()).train()
    wrapper = FakeOptimWrapper(model)
    before = copy.deepcopy(model.state_dict())
    inside = []
    for module in (model.data_preprocessor, model):
        module.register_forward_hook(lambda *_: inside.append(wrapper.inside))
    logged = [model.train_step({"inputs": images()}, wrapper) for _ in range(2)]
    assert inside == [True] * 4
    assert wrapper.log == [("context", model), ("update", False)] * 2
    assert all(list(log) == ["loss"] and not log["loss"].requires_grad for log in logged)
    assert logged[1]["loss"] < logged[0]["loss"]
    after = model.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"backbone.weight", "backbone.bias", "neck.weight", "neck.bias"}


@pytest.mark.parametrize("output", [{"inputs": 1, "data_samples": 2}, (1, 2), [1, 2]])
def test_train_step_unpacks_what_the_preprocessor_returns(output):
    class Recorder(BaseSelfSupervisor):
        def loss(self, inputs, data_samples):
            self.seen = (inputs, data_samples)
            return {"loss": self.backbone.weight.sum()}

    model = Recorder(nn.Linear(1, 1), data_preprocessor=Returns(output))
    model.train_step("raw", FakeOptimWrapper(model))
    assert model.seen == (1, 2)
    assert model.data_preprocessor.calls == [("raw", True)]


class Returns(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output
        self.calls = []

    def forward(self, *args):
        self.calls.append(args)
        return self.output


def test_train_step_refuses_another_preprocessor_output():
    model = plain(data_preprocessor=Returns(torch.ones(1)))
    with pytest.raises(TypeError, match="returned a Tensor; expected a dict, list or tuple"):
        model.train_step(None, FakeOptimWrapper(model))


@pytest.mark.parametrize("step", ["val_step", "test_step"])
def test_validation_asks_for_mode_predict(step):
    model = plain(data_preprocessor=Returns({"inputs": 1}))
    with pytest.raises(RuntimeError, match='Invalid mode "predict"'):
        getattr(model, step)("raw")
    assert model.data_preprocessor.calls == [("raw", False)]


def drifting():
    """A target generator that upstream would train and let drift."""
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


def test_target_generator_is_frozen_whatever_train_says():
    model = plain(target_generator=drifting())
    for mode in (True, False, True):
        model.train(mode)
        assert model.training is mode
        assert model.backbone.training is mode
        assert not any(module.training for module in model.target_generator.modules())
        assert not any(p.requires_grad for p in model.target_generator.parameters())
    assert all(p.requires_grad for p in model.backbone.parameters())


def test_a_replaced_target_generator_is_frozen_too():
    model = plain()
    model.target_generator = drifting()
    model.train()
    assert not model.target_generator.training
    assert not model.target_generator[0].weight.requires_grad


def test_freezing_can_be_switched_off():
    class Learning(Toy):
        freeze_target_generator = False

    model = Learning(nn.Identity(), target_generator=drifting()).train()
    assert model.target_generator.training
    assert model.target_generator[0].weight.requires_grad


def test_get_layer_depth_asks_the_backbone():
    class Deep(nn.Linear):
        def get_layer_depth(self, name, prefix):
            return (name, prefix), 7

    model = Toy(Deep(1, 1))
    assert model.get_layer_depth("backbone.weight") == (("backbone.weight", "backbone."), 7)
    with pytest.raises(NotImplementedError, match="Linear has no get_layer_depth"):
        plain().get_layer_depth("backbone.weight")


class Records(nn.Module):
    """A child with an init_weights."""

    def __init__(self, log, name):
        super().__init__()
        self.fc = nn.Linear(1, 1)
        self.log, self.name = log, name

    def init_weights(self):
        self.log.append((self.name, self.fc.weight.item()))


def test_init_weights_order(tmp_path, caplog):
    torch.save({"neck.fc.weight": torch.full((1, 1), 5.0)}, tmp_path / "weights.pth")
    log = []
    fill = dict(type="Constant", layer="Linear", val=2.0)
    load = dict(type="Pretrained", checkpoint=str(tmp_path / "weights.pth"))
    head = Records(log, "head")
    head.is_init = True
    model = Toy(Records(log, "backbone"), Records(log, "neck"), head, init_cfg=[load, fill])
    assert log == []
    model.init_weights()
    # The own filling came before the children, the own loading after, whatever their order.
    assert log == [("backbone", 2.0), ("neck", 2.0)]
    assert model.neck.fc.weight.item() == 5.0
    assert model.head.fc.weight.item() == 2.0
    model.neck.fc.weight.data.zero_()
    with caplog.at_level(logging.WARNING, "ssl_fast"):
        model.init_weights()
    assert "init_weights of Toy has been called more than once" in caplog.text
    assert model.neck.fc.weight.item() == 0.0
    assert len(log) == 2


def test_pretrained_discards_init_cfg_and_loads_late(tmp_path):
    path = tmp_path / "weights.pth"
    model = plain(pretrained=str(path), init_cfg=dict(type="Constant", layer="Linear", val=3.0))
    assert model.init_cfg == dict(type="Pretrained", checkpoint=str(path))
    before = model.backbone.weight.clone()
    with pytest.raises(FileNotFoundError, match=r"weights\.pth"):
        model.init_weights()
    assert torch.equal(model.backbone.weight, before)
    torch.save({"backbone.weight": torch.eye(2)}, path)
    model.init_weights()
    assert torch.equal(model.backbone.weight, torch.eye(2))


def test_init_cfg_is_copied_and_checked_at_once():
    config = dict(type="Constant", layer=["Linear"], val=1.0)
    model = plain(init_cfg=config)
    config["layer"].append("Conv2d")
    assert model.init_cfg["layer"] == ["Linear"]
    with pytest.raises(ValueError, match="type 'Orthogonal'; accepted are Constant, Normal"):
        plain(init_cfg=dict(type="Orthogonal", layer="Linear"))


@pytest.mark.skipif(not importlib.util.find_spec("timm"), reason="needs timm")
def test_weights_of_timm_survive_init_weights():
    config = dict(type="timm.vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=1, num_heads=3)
    model = Toy(config)
    assert hasattr(model.backbone, "init_weights")
    before = copy.deepcopy(model.backbone.state_dict())
    model.init_weights()
    after = model.backbone.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_models_are_copied_and_pickled():
    model = MODELS.build(toy_config())
    batch = images()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(batch), model(batch))
        assert not twin.train().target_generator.training
        assert twin.data_preprocessor is not model.data_preprocessor
