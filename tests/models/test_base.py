"""BaseSelfSupervisor: construction, training contract, freezing, masks, targets."""

import contextlib
import copy
import importlib.util
import logging
import pickle

import pytest
import torch
from torch import nn

from ssl_fast import ops
from ssl_fast.models import (
    MODELS,
    BaseSelfSupervisor,
    SelfSupDataPreprocessor,
    TwoNormDataPreprocessor,
)
from ssl_fast.nn import HOGGenerator


class Toy(BaseSelfSupervisor):
    """Predicts HOG from the pixels of a patch."""

    def loss(self, inputs, data_samples):
        feats = self.extract_feat(inputs).flatten(2).transpose(1, 2)
        target = self.build_target(inputs)
        return {"loss": (self.neck(feats) - target).square()}


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


def toy_config(**more):
    return dict(
        type=Toy,
        backbone=dict(type=nn.Conv2d, in_channels=3, out_channels=8, kernel_size=16, stride=16),
        neck=dict(type=nn.Linear, in_features=8, out_features=108),
        head=dict(type=nn.Identity),
        target_generator=dict(type="HOGGenerator", nbins=9, pool=8, gaussian_window=16),
        data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
        **more,
    )


def images(batch=2, side=224, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, side, side), generator=generator, dtype=torch.uint8)


def plain(**more):
    """A model of one parameter whose loss a test may set."""
    return Toy(nn.Linear(2, 2), **more)


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


def test_uint8_batches_are_normalised_and_floats_are_not():
    model = plain(data_preprocessor=dict(mean=[1.0], std=[2.0], keep_uint8=True))
    batch = images(1, 16)
    floats = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(model.normalized(batch), (batch.float() - 1) / 2)
    assert model.normalized(floats) is floats
    views = model.normalized([floats, batch])
    assert views[0] is floats
    torch.testing.assert_close(views[1], (batch.float() - 1) / 2)


def test_each_view_has_its_own_statistics():
    config = dict(type="TwoNormDataPreprocessor", second_mean=[1.0], second_std=[2.0])
    model = plain(data_preprocessor=config)
    batch = images(1, 16)
    first, second = model.normalized([batch, batch])
    torch.testing.assert_close(first, batch.float())
    torch.testing.assert_close(second, (batch.float() - 1) / 2)


def test_extract_feat_takes_uint8():
    model = MODELS.build(toy_config())
    batch = images()
    floats = model.data_preprocessor.normalize(batch)
    torch.testing.assert_close(model.extract_feat(batch), model.extract_feat(floats))


def test_uint8_needs_a_preprocessor_that_normalises():
    model = plain(data_preprocessor=nn.Identity())
    with pytest.raises(TypeError, match=r"data_preprocessor \(Identity\) has no normalize"):
        model.normalized(images())


class Sample:
    def __init__(self, mask=None):
        if mask is not None:
            self.mask = mask


def test_masks_of_every_form_of_data_samples():
    model = plain()
    masks = torch.arange(8).reshape(2, 2, 2) % 2 == 0
    assert model.masks_of(None) is None
    assert model.masks_of({"seed": 1}) is None
    assert model.masks_of({"mask": masks}) is masks
    assert model.masks_of([Sample(), Sample()]) is None
    assert torch.equal(model.masks_of([Sample(masks[0]), Sample(masks[1])]), masks)
    assert torch.equal(model.masks_of([Sample(mask.numpy()) for mask in masks]), masks)
    with pytest.raises(ValueError, match="1 of 2 data samples have a mask"):
        model.masks_of([Sample(masks[0]), Sample()])


def test_randomness_of_data_samples():
    model = plain()
    ids = torch.arange(2)
    assert model.randomness_of(None) == {}
    assert model.randomness_of([Sample()]) == {}
    assert model.randomness_of({"seed": 0, "sample_ids": ids, "mask": 1}) == {
        "seed": 0,
        "sample_ids": ids,
    }
    assert model.randomness_of({"seed": None, "sample_ids": ids}) == {"sample_ids": ids}


def test_sample_mask_hands_all_to_the_op(monkeypatch):
    calls = []
    monkeypatch.setattr(ops, "block_mask", lambda *a, **k: calls.append((a, k)), raising=False)
    plain().sample_mask(3, (2, 4), 5, seed=7, min_block=2)
    options = {"seed": 7, "sample_ids": None, "device": torch.device("cpu"), "min_block": 2}
    assert calls == [((3, (2, 4), 5), options)]
    plain().sample_mask(3, (2, 4), 5, device="meta")
    assert calls[1][1]["device"] == "meta"


def test_sample_mask_draws_blockwise_masks_by_seed_and_sample():
    ids = torch.arange(3)
    both = [plain().sample_mask(3, (8, 8), 20, seed=1, sample_ids=ids) for _ in range(2)]
    assert torch.equal(*both)
    assert both[0].dtype == torch.bool
    assert both[0].flatten(1).sum(1).tolist() == [20] * 3
    shifted = plain().sample_mask(2, (8, 8), 20, seed=1, sample_ids=ids[1:])
    assert torch.equal(shifted, both[0][1:])


def test_sample_mask_needs_a_count():
    with pytest.raises(ValueError, match="num_masked is None"):
        plain().sample_mask(3, (2, 4))


def test_similarity_loss_hands_all_to_the_op(monkeypatch):
    calls = []
    monkeypatch.setattr(ops, "nt_xent", lambda *a, **k: calls.append((a, k)), raising=False)
    plain().similarity_loss("z0", "z1", 0.2, group="all")
    assert calls == [(("z0", "z1", 0.2), {"group": "all"})]


@pytest.mark.parametrize(
    ("op", "method", "args"),
    [("nt_xent", "similarity_loss", (1, 2)), ("block_mask", "sample_mask", (1, (2, 2), 1))],
)
def test_an_op_that_is_not_there_is_named(monkeypatch, op, method, args):
    monkeypatch.delattr(ops, op, raising=False)
    expected = rf"ops\.{op} is not part of this version of ssl_fast.*override {method}\(\)"
    with pytest.raises(NotImplementedError, match=expected):
        getattr(plain(), method)(*args)


def test_build_target_computes_only_the_tokens_wanted():
    model = plain(target_generator=HOGGenerator())
    batch = images()
    every = model.build_target(batch)
    ids = torch.tensor([[3, 0], [195, 7]])
    chosen = torch.take_along_dim(every, ids[..., None], dim=1)
    assert every.shape == (2, 196, 108)
    torch.testing.assert_close(model.build_target(batch, ids=ids), chosen)
    mask = torch.zeros(2, 196).index_fill(1, torch.tensor([5]), 1)
    masked = model.build_target(batch, mask=mask)
    torch.testing.assert_close(masked[:, 5], every[:, 5])
    assert masked[:, 6].eq(0).all()


def test_build_target_of_a_generator_that_computes_all():
    model = plain(target_generator=nn.Flatten(2))
    batch = torch.arange(12.0).reshape(1, 3, 2, 2)
    ids = torch.tensor([[2, 0]])
    expected = torch.tensor([[[8.0, 9, 10, 11], [0, 1, 2, 3]]])
    torch.testing.assert_close(model.build_target(batch, ids=ids), expected)
    assert model.build_target(batch, mask=torch.ones(1, 3)).shape == (1, 3, 4)


def test_build_target_without_a_generator():
    with pytest.raises(RuntimeError, match="Toy has no target_generator"):
        plain().build_target(images())


def test_build_target_compiles_without_a_break():
    model = plain(target_generator=HOGGenerator())
    batch, ids = images(), torch.tensor([[3, 0], [195, 7]])
    compiled = torch.compile(model.build_target, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch, ids=ids), model.build_target(batch, ids=ids))


def test_models_are_copied_and_pickled():
    model = MODELS.build(toy_config())
    batch = images()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(batch), model(batch))
        assert not twin.train().target_generator.training
        assert twin.data_preprocessor is not model.data_preprocessor
