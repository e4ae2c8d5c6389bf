"""Our models under mmengine's Runner: loops, precision, checkpoints, resuming, hooks, processes."""

import copy
import json
import os
from pathlib import Path

import pytest
import torch

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
import mmengine  # noqa: E402
from mmengine.model import ExponentialMovingAverage, MMDistributedDataParallel  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmpretrain.registry import MODELS as THEIRS  # noqa: E402

from ssl_fast._testing.processes import run_in_processes  # noqa: E402
from ssl_fast.integrations import mmpretrain as integration  # noqa: E402, F401
from ssl_fast.models import StepCounter  # noqa: E402
from tests.integrations.mmpretrain.runs import (  # noqa: E402
    EPOCHS,
    ITERATIONS,
    MODELS,
    runner_of,
    state_of,
)

# mmengine 0.10 loads its own checkpoints with weights_only, which refuses them.
needs_resume = pytest.mark.skipif(
    mmengine.__version__ < "0.11", reason="mmengine 0.10 cannot resume its own checkpoints"
)
BF16 = dict(type="AmpOptimWrapper", dtype="bfloat16", optimizer=dict(type="AdamW", lr=1e-3))


def logged(runner):
    path = Path(runner.log_dir) / "vis_data" / f"{runner.timestamp}.json"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.smoke
@pytest.mark.parametrize("loop", [ITERATIONS, EPOCHS], ids=["iterations", "epochs"])
@pytest.mark.parametrize("method", ["MAE", "MaskFeat", "SimCLR"])
def test_the_runner_trains_logs_and_saves(tmp_path, method, loop):
    runner = runner_of(method, tmp_path / "run", loop)
    before = state_of(runner)
    runner.train()
    assert runner.model.is_init
    assert runner.iter == 4
    assert runner.model.get_parameter(_trained(runner.model)).grad is None  # zeroed
    losses = logged(runner)
    assert len(losses) == 4
    assert all(loss > 0 for loss in losses)
    name = "epoch_2.pth" if loop is EPOCHS else "iter_4.pth"
    saved = torch.load(tmp_path / "run" / name, weights_only=False)["state_dict"]
    state = state_of(runner)
    assert list(saved) == list(state) == list(before)
    assert all(torch.equal(saved[key], state[key]) for key in state)
    assert any(not torch.equal(before[key], state[key]) for key in state)


def _trained(model):
    return next(name for name, parameter in model.named_parameters() if parameter.requires_grad)


@pytest.mark.smoke
@pytest.mark.parametrize("method", ["MAE", "MaskFeat", "SimCLR"])
def test_mixed_precision_trains(tmp_path, method, monkeypatch):
    # mmengine keeps it to accelerators, though the CPU has bfloat16 too.
    module = "mmengine.optim.optimizer.amp_optimizer_wrapper"
    monkeypatch.setattr(f"{module}.is_cuda_available", lambda: True)
    seen = []
    runner = runner_of(method, tmp_path / "run", optim_wrapper=BF16)
    hook = lambda *args: seen.append(torch.is_autocast_enabled("cpu"))  # noqa: E731
    runner.model.backbone.register_forward_hook(hook)
    runner.train()
    assert seen == [True] * 4
    assert all(loss > 0 for loss in logged(runner))
    assert all(torch.isfinite(value.float()).all() for value in state_of(runner).values())


@needs_resume
@pytest.mark.parametrize("loop", [ITERATIONS, EPOCHS], ids=["iterations", "epochs"])
@pytest.mark.parametrize("method", ["MaskFeat", "SimCLR", "BYOL"])
def test_a_resumed_run_goes_on_to_the_bit(tmp_path, method, loop):
    """Of methods that draw nothing themselves: mmengine does not save torch's generator."""
    hooks = [dict(type="ssl_fast.StepCounterHook")]
    whole = runner_of(method, tmp_path / "whole", loop, custom_hooks=hooks)
    whole.train()
    name = "epoch_1.pth" if loop is EPOCHS else "iter_2.pth"
    resumed = runner_of(
        method,
        tmp_path / "resumed",
        loop,
        custom_hooks=hooks,
        load_from=str(tmp_path / "whole" / name),
        resume=True,
    )
    resumed.train()
    assert resumed.iter == 4
    ours, expected = state_of(resumed), state_of(whole)
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


@needs_resume
def test_a_resumed_mae_begins_where_it_stopped(tmp_path):
    first = runner_of("MAE", tmp_path / "first", dict(type="IterBasedTrainLoop", max_iters=2))
    first.train()
    path = str(tmp_path / "first" / "iter_2.pth")
    second = runner_of("MAE", tmp_path / "second", load_from=path, resume=True)
    second.optim_wrapper = second.build_optim_wrapper(second.optim_wrapper)
    second.load_or_resume()
    assert second.iter == 2
    assert all(torch.equal(state_of(second)[key], value) for key, value in state_of(first).items())
    moments = [next(iter(each.optim_wrapper.optimizer.state.values())) for each in (first, second)]
    assert torch.equal(moments[0]["exp_avg"], moments[1]["exp_avg"])


@pytest.mark.smoke
@pytest.mark.parametrize("method", ["MAE", "MaskFeat", "SimCLR"])
def test_moving_averages_follow_our_models(tmp_path, method):
    hook = dict(type="mmpretrain.EMAHook", momentum=0.5)
    runner = runner_of(method, tmp_path / "run", custom_hooks=[hook])
    runner.train()
    averaged = next(each for each in runner.hooks if type(each).__name__ == "EMAHook").ema_model
    assert isinstance(averaged, ExponentialMovingAverage)
    name = _trained(runner.model)
    ours, theirs = averaged.module.get_parameter(name), runner.model.get_parameter(name)
    assert not torch.equal(ours, theirs)
    assert (ours - theirs).abs().max() < 1e-2
    saved = torch.load(tmp_path / "run" / "iter_4.pth", weights_only=False)
    assert list(saved["ema_state_dict"])[1].startswith("module.")


@pytest.mark.smoke
def test_learning_rates_decay_from_layer_to_layer():
    model = THEIRS.build(copy.deepcopy(MODELS["MAE"]))
    config = dict(
        optimizer=dict(type="AdamW", lr=1.0, weight_decay=0.05),
        constructor="LearningRateDecayOptimWrapperConstructor",
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        groups = build_optim_wrapper(model, config).optimizer.param_groups
    rates = {group["param_name"]: group["lr"] for group in groups}
    # Two blocks: the stem, blocks 0 and 1, and all that comes after.
    assert rates["backbone.model.patch_embed.proj.weight"] == 0.125
    assert rates["backbone.model.blocks.0.attn.qkv.weight"] == 0.25
    assert rates["backbone.model.blocks.1.attn.qkv.weight"] == 0.5
    assert rates["backbone.model.norm.weight"] == rates["neck.mask_token"] == 1.0


@pytest.mark.smoke
def test_the_hook_tells_steps_of_the_optimiser(tmp_path):
    runner = runner_of(
        "BYOL",
        tmp_path / "run",
        custom_hooks=[dict(type="ssl_fast.StepCounterHook")],
        optim_wrapper=dict(
            type="OptimWrapper", accumulative_counts=2, optimizer=dict(type="SGD", lr=0.1)
        ),
    )
    runner.train()
    steps = next(each for each in runner.model.modules() if isinstance(each, StepCounter))
    assert (steps.count, steps.total) == (2, 2)


def in_a_process(methods, folder):
    rank = torch.distributed.get_rank()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    wrapper = dict(type="MMDistributedDataParallel", device_ids=None)
    trained = {}
    for method in methods:
        place = Path(folder) / method
        runner = runner_of(method, place, launcher="pytorch", model_wrapper_cfg=wrapper)
        assert isinstance(runner.model, MMDistributedDataParallel)
        runner.train()
        named = runner.model.module.named_parameters()
        trained[method] = {name: parameter.detach() for name, parameter in named}
    return trained


def test_two_processes_train_one_model(tmp_path):
    methods = ("MAE", "MaskFeat", "SimCLR")
    first, second = run_in_processes(in_a_process, 2, methods, str(tmp_path))
    for method in methods:
        ours = first[method]
        assert ours.keys() == second[method].keys()
        assert all(torch.equal(ours[key], second[method][key]) for key in ours)
        path = tmp_path / method / "iter_4.pth"
        saved = torch.load(path, weights_only=False)["state_dict"]
        assert all(torch.equal(ours[key], saved[key]) for key in ours)
        alone = runner_of(method, tmp_path / f"{method}-alone")
        alone.train()
        name = _trained(alone.model)  # from half as many images
        assert not torch.equal(ours[name], state_of(alone)[name])
