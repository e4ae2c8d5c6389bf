"""Options, what they come to, the optimiser's groups and schedule, and run folders."""

import math

import pytest
import torch

from ssl_fast.models import MODELS
from ssl_fast.models.maskfeat import maskfeat_config
from ssl_fast.training.checkpoints import CheckpointError
from ssl_fast.training.folder import find_run, new_folder, read_config, write_config
from ssl_fast.training.optim import make_optimizer, parameter_groups, warmup_cosine
from ssl_fast.training.options import PretrainOptions
from ssl_fast.training.plan import plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="mae2"), "method is 'mae2'; accepted are 'maskfeat', 'mae', 'simmim'"),
        (dict(precision="fp8"), "precision is 'fp8'; accepted are 'fp32', 'bf16'"),
        (dict(batch_size=0), "batch_size is 0; expected 1 or more"),
        (dict(image_size=-1), "image_size is -1"),
        (dict(steps=0), "steps is 0"),
        (dict(epochs=1, steps=1), "epochs .1. and steps .1. exclude each other"),
        (dict(lr=1.0, base_lr=1.0), "base_lr .1.0. and lr .1.0. exclude"),
        (dict(lr=math.nan), "lr is nan"),
        (dict(lr=-1.0), "lr is -1.0; expected 0 or more"),
        (dict(layer_decay=1.5), "layer_decay is 1.5"),
        (dict(holdout=1.0), "holdout is 1.0"),
        (dict(batch_size=10, accumulate=4), "batch_size is 10, which accumulate .4. must divide"),
        (dict(crop_scale=(0.9, 0.2)), r"crop_scale is \(0.9, 0.2\)"),
        (dict(log_steps=0), "log_steps is 0"),
        (dict(workers=-1), "workers is -1"),
        (dict(jitter=0.5), "jitter is 0.5, and maskfeat changes no colours"),
        (dict(jitter=-1), "jitter is -1; expected 0 or more"),
        (dict(local_views=2), "local_views is 2, and maskfeat has none"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        PretrainOptions(**options)


@pytest.mark.parametrize("options", [dict(steps="ten"), dict(lr=True), dict(backbone_options=[1])])
def test_values_of_another_type(options):
    with pytest.raises(TypeError, match=f"{next(iter(options))} is"):
        PretrainOptions(**options)


def test_plan_of_epochs_and_of_steps():
    by_epochs = plan(PretrainOptions(epochs=3, batch_size=64), 200)
    assert (by_epochs.steps_per_epoch, by_epochs.steps, by_epochs.epochs) == (3, 9, 3)
    by_steps = plan(PretrainOptions(steps=10, batch_size=64), 200)
    assert (by_steps.steps, by_steps.epochs, by_steps.epoch(9)) == (10, 4, 3)
    assert plan(PretrainOptions(epochs=2, batch_size=64), 10).steps_per_epoch == 1
    assert plan(PretrainOptions(batch_size=64), 128).steps == 200  # 100 epochs


def test_learning_rate_scales_with_the_batch():
    assert plan(PretrainOptions(batch_size=512, base_lr=1e-4), 1000).lr == pytest.approx(2e-4)
    assert plan(PretrainOptions(batch_size=512, lr=1e-4), 1000).lr == 1e-4
    recipe = plan(PretrainOptions(batch_size=256), 1000)
    assert (recipe.lr, recipe.weight_decay, recipe.clip_grad) == (2e-4, 0.05, 0.02)
    assert plan(PretrainOptions(clip_grad=0, weight_decay=0), 1000).clip_grad == 0


def test_when_things_are_due():
    planned = plan(PretrainOptions(steps=7, batch_size=10, evaluate_epochs=1), 30)
    assert [step for step in range(8) if planned.evaluation_due(step)] == [3, 6, 7]
    planned = plan(PretrainOptions(steps=7, checkpoint_steps=2), 30)
    assert [step for step in range(8) if planned.checkpoint_due(step)] == [2, 4, 6, 7]
    # About ten in all, but not more often than once a pass.
    assert plan(PretrainOptions(epochs=40, batch_size=10), 100).evaluate_every == 40
    assert plan(PretrainOptions(epochs=4, batch_size=10), 100).evaluate_every == 10


def model():
    options = dict(depth=2, embed_dim=24, num_heads=2)
    return MODELS.build(maskfeat_config("vit_tiny_patch16_224", 16, 8, backbone_options=options))


def test_weight_decay_spares_norms_biases_tokens_and_positions():
    built = model()
    names = {id(p): name for name, p in built.named_parameters()}
    groups = parameter_groups(built, 1e-3, 0.05)
    by_decay = {g["weight_decay"]: {names[id(p)] for p in g["params"]} for g in groups}
    spared = {name for name in by_decay[0.0] if not name.endswith(("bias", "norm1.weight"))}
    assert {
        "backbone.mask_token",
        "backbone.model.cls_token",
        "backbone.model.pos_embed",
        "backbone.model.norm.weight",
    } <= spared
    assert "backbone.model.patch_embed.proj.weight" in by_decay[0.05]
    assert "neck.fc.weight" in by_decay[0.05]
    trained = {name for name, p in built.named_parameters() if p.requires_grad}
    assert by_decay[0.0] | by_decay[0.05] == trained


def test_layer_decay():
    built = model()
    rates = {}
    for group in parameter_groups(built, 1.0, 0.05, layer_decay=0.5):
        rates.update({id(p): group["lr"] for p in group["params"]})
    rate = {name: rates[id(p)] for name, p in built.named_parameters() if p.requires_grad}
    assert rate["backbone.model.patch_embed.proj.weight"] == 0.125
    assert rate["backbone.model.blocks.0.norm1.weight"] == 0.25
    assert rate["backbone.model.blocks.1.mlp.fc1.bias"] == 0.5
    assert rate["backbone.model.norm.weight"] == rate["backbone.mask_token"] == 1.0
    assert rate["neck.fc.weight"] == 1.0


def test_warmup_and_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = warmup_cosine(optimizer, lr=0.1, min_lr=0.001, warmup_steps=4, steps=24)
    rates = []
    for _ in range(25):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert rates[14] == pytest.approx((0.1 + 0.001) / 2)  # half-way
    assert rates[24] == pytest.approx(0.001)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_folders_are_numbered(tmp_path):
    wanted = tmp_path / "runs" / "digits"
    made = [new_folder(wanted).name for _ in range(3)]
    assert made == ["digits", "digits-2", "digits-3"]


def test_config_comes_back(tmp_path):
    options = PretrainOptions(data="x", backbone_options={"depth": 2}, crop_scale=(0.2, 0.9))
    write_config(tmp_path, options)
    assert read_config(tmp_path) == options


def test_going_on_changes_only_what_is_given():
    saved = PretrainOptions(data="x", epochs=3, lr=0.1, seed=7)
    assert PretrainOptions(resume="r").continued(saved) == PretrainOptions(
        data="x", epochs=3, lr=0.1, seed=7, resume="r"
    )
    longer = PretrainOptions(resume="r", steps=9, base_lr=0.2).continued(saved)
    assert (longer.steps, longer.epochs, longer.lr, longer.base_lr) == (9, None, None, 0.2)


def test_runs_that_cannot_go_on(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no .*checkpoints/last.ckpt"):
        find_run(str(tmp_path))
    with pytest.raises(CheckpointError, match="is not the folder of a run"):
        read_config(tmp_path)
    (tmp_path / "config.yaml").write_text("batch_size: none\n")
    with pytest.raises(CheckpointError, match="batch_size"):
        read_config(tmp_path)


def test_optimizers():
    built = model()
    for name, kind in (("adamw", "AdamW"), ("sgd", "SGD"), ("lars", "Lars")):
        groups = parameter_groups(built, 0.1, 0.0, constant_lr=("neck.",))
        optimizer = make_optimizer(name, groups, 0.1, (0.9, 0.95))
        assert type(optimizer).__name__ == kind
        schedule = warmup_cosine(optimizer, lr=0.1, min_lr=0.0, warmup_steps=2, steps=4)
        rates = [(g["constant_lr"], g["lr"]) for g in optimizer.param_groups]
        assert sorted(set(rates)) == [(False, 0.05), (True, 0.1)]
        assert len(schedule.lr_lambdas) == 4  # that decay or not, with constant rate or not


def test_lars_adapts_matrices_alone():
    built = torch.nn.Module()
    built.weight = torch.nn.Parameter(torch.full((2, 2), 3.0))
    built.bias = torch.nn.Parameter(torch.full((2,), 3.0))
    optimizer = make_optimizer("lars", parameter_groups(built, 0.5, 0.0), 0.5, (0.9, 0.95))
    (built.weight.sum() + built.bias.sum()).backward()
    optimizer.step()
    # A trust coefficient of 0.001 times the norm of the weights over that of the gradient.
    torch.testing.assert_close(built.weight.detach(), torch.full((2, 2), 3 - 0.5 * 0.001 * 3))
    torch.testing.assert_close(built.bias.detach(), torch.full((2,), 2.5))
