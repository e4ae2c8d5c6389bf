"""A whole run: what it writes, what it says, how it goes on, how it fails."""

import inspect
import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import ssl_fast
from ssl_fast.training.checkpoints import CheckpointError, Diverged
from ssl_fast.training.data import DataError
from ssl_fast.training.export import load_backbone, snippet
from ssl_fast.training.options import PretrainOptions

from .runs import OTHERS, TINY, losses, pretrain, same_weights, weights


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of ten steps, never interrupted."""
    return pretrain(tmp_path_factory.mktemp("runs") / "whole")


def test_what_it_returns(run):
    assert (run.finished, run.step) == (True, 10)
    assert run.loss == pytest.approx(losses(run.folder)[10])
    for accuracies, step in ((run.before, 0), (run.after, 10)):
        assert accuracies["step"] == step
        assert 0 < accuracies["knn"] <= 1
        assert 0 < accuracies["linear"] <= 1


def test_its_files(run):
    files = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()}
    events = [name for name in files if name.startswith("tensorboard/events")]
    assert len(events) == 1
    assert files - set(events) == {
        "config.yaml",
        "metrics.jsonl",
        "train.log",
        "loss.png",
        "panels/step-0000000.png",
        "panels/step-0000010.png",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "export/backbone.safetensors",
        "export/backbone.json",
    }
    assert Image.open(run.folder / "panels/step-0000010.png").width > 4 * 128


def test_metrics(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 11))
    assert set(steps[0]) == {
        "step", "epoch", "loss", "lr", "images_per_s", "data_share", "memory_mb",
    }  # fmt: skip
    assert [line["lr"] for line in steps][:2] == pytest.approx([0.003, 0.003])  # warmed up in one
    assert steps[-1]["lr"] < 0.001
    assert all(0 <= line["data_share"] <= 1 and line["images_per_s"] > 0 for line in steps)


def test_train_log_says_what_ran(run):
    text = (run.folder / "train.log").read_text()
    assert f"torch {torch.__version__}" in text
    assert "hog_tokens compiled" in text or "hog_tokens reference" in text
    assert "1,797 images in 10 classes" in text
    assert "held-out images" in text
    assert str(run.folder / "export") in text
    assert not logging.getLogger("ssl_fast").handlers


def test_the_export_is_the_trained_backbone(run):
    trained = weights(run.folder)
    loaded = load_backbone(run.folder / "export").state_dict()
    prefix = "model.backbone.model."
    expected = {k.removeprefix(prefix): v for k, v in trained.items() if k.startswith(prefix)}
    assert same_weights(loaded, expected)
    assert snippet(run.folder / "export") in (run.folder / "train.log").read_text().replace(
        "\r", ""
    )


def test_same_seed_same_run_whatever_the_loading(run, tmp_path):
    again = pretrain(tmp_path / "workers", workers=2)
    assert same_weights(weights(run.folder), weights(again.folder))
    other = pretrain(tmp_path / "seed", seed=1)
    assert not same_weights(weights(run.folder), weights(other.folder))


@pytest.mark.parametrize("method", ["mae", "simmim"])
def test_the_other_methods(tmp_path, method):
    options = dict(method=method, method_options=OTHERS[method], lr=None, batch_size=16)
    result = pretrain(tmp_path / "whole", **options)
    assert result.finished
    assert result.after is not None
    assert Image.open(result.folder / "panels/step-0000010.png").width > 3 * 128
    again = pretrain(tmp_path / "again", workers=1, **options)
    assert same_weights(weights(result.folder), weights(again.folder))


def test_a_taken_folder_is_left_alone(run):
    again = pretrain(run.folder, steps=1)
    assert again.folder == run.folder.with_name("whole-2")
    assert len(losses(run.folder)) == 10


def test_accumulated_parts_make_the_same_steps(run, tmp_path):
    # Without dropped paths, which are drawn for each part.
    options = dict(backbone_options={**TINY["backbone_options"], "drop_path_rate": 0.0})
    whole = pretrain(tmp_path / "whole", **options)
    parts = pretrain(tmp_path / "parts", accumulate=4, **options)
    assert losses(parts.folder) == pytest.approx(losses(whole.folder), rel=1e-4)


def test_going_on_is_as_if_it_had_never_stopped(run, tmp_path):
    # Stops in the middle of a pass over the data (11 steps), by fewer steps on the same schedule.
    options = dict(warmup_steps=1, min_lr=0.003)  # the schedule does not know where the run ends
    whole = pretrain(tmp_path / "whole", **options)
    part = pretrain(tmp_path / "part", steps=7, **options)
    assert not same_weights(weights(whole.folder), weights(part.folder))
    rest = ssl_fast.pretrain(resume=part.folder, steps=10)
    assert (rest.folder, rest.step, rest.finished) == (part.folder, 10, True)
    assert same_weights(weights(whole.folder), weights(part.folder))
    assert losses(whole.folder) == losses(part.folder)
    assert yaml.safe_load((part.folder / "config.yaml").read_text())["steps"] == 10


def test_a_finished_run_goes_on_to_its_end(run):
    before = weights(run.folder)
    again = ssl_fast.pretrain(resume=run.folder / "checkpoints" / "last.ckpt")
    assert again.finished
    assert same_weights(before, weights(run.folder))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(Diverged) as caught:
        pretrain(tmp_path / "nan", lr=1e30, clip_grad=0, warmup_steps=5, steps=40)
    text = str(caught.value)
    assert "the loss was " in text or "weights were not finite" in text
    assert f"at step {caught.value.step}" in text
    assert "learning rate that is too high (now 1e+30" in text
    last = tmp_path / "nan" / "checkpoints" / "last.ckpt"
    assert str(last) in text or "no checkpoint was saved before" in text
    if last.exists():
        assert all(value.isfinite().all() for value in weights(tmp_path / "nan").values())


def test_a_good_checkpoint_stays_when_the_loss_is_not_finite(run, tmp_path, monkeypatch):
    from ssl_fast.models import MaskFeat

    loss, calls = MaskFeat.loss, []

    def broken(self, inputs, data_samples=None):
        calls.append(1)
        factor = torch.nan if len(calls) == 6 else 1.0
        return {"loss": loss(self, inputs, data_samples)["loss"] * factor}

    monkeypatch.setattr(MaskFeat, "loss", broken)
    with pytest.raises(
        Diverged, match=r"loss was nan at step 6; the last good checkpoint is .*last"
    ):
        pretrain(tmp_path / "nan")
    assert torch.load(tmp_path / "nan/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3


def picture(path, seed, size=40, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def test_a_folder_without_labels(tmp_path):
    for number in range(20):
        picture(tmp_path / "data" / f"{number % 3}" / "deep" / f"{number}.png", number)
    picture(tmp_path / "data" / "at_the_top.jpg", 99)  # so that folders are no classes
    (tmp_path / "data" / "broken.jpg").write_bytes(b"no image")
    result = pretrain(tmp_path / "run", data=tmp_path / "data", steps=4, batch_size=8, workers=1)
    assert result.finished
    assert result.before is None
    text = (result.folder / "train.log").read_text()
    assert text.count("skipped, unreadable: broken.jpg") == 1
    assert "unreadable files skipped: 1;" in text
    assert (result.folder / "checkpoints" / "best.ckpt").is_file()


def test_a_folder_with_classes(tmp_path):
    for number in range(24):
        picture(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", number)
    result = pretrain(tmp_path / "run", data=tmp_path / "data", steps=2, batch_size=8, holdout=0.3)
    assert result.after is not None


def test_wrong_data(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        pretrain(tmp_path / "run", data=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="data is missing"):
        pretrain(tmp_path / "run", data=None)
    assert not (tmp_path / "run").exists()


def test_wrong_options(tmp_path):
    with pytest.raises(TypeError, match="unknown option 'step'; nearest are steps"):
        pretrain(tmp_path / "run", step=3)
    with pytest.raises(ValueError, match="no model 'vit_tinny"):
        pretrain(tmp_path / "run", backbone="vit_tinny_patch16_224")
    with pytest.raises(ValueError, match=r"batch_size is 15; expected a multiple of 2"):
        pretrain(tmp_path / "run", batch_size=15, devices=2)
    with pytest.raises(ValueError, match="nonsense"):
        pretrain(tmp_path / "run", strategy="nonsense")
    with pytest.raises(ValueError, match="strategy is 'ddp_spawn', which forks or spawns; take"):
        pretrain(tmp_path / "run", strategy="ddp_spawn", devices=2)
    assert not (tmp_path / "run").exists()


def test_wrong_checkpoints(run, tmp_path):
    with pytest.raises(CheckpointError, match="saved no checkpoint"):
        ssl_fast.pretrain(resume=tmp_path)
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    whole = (run.folder / "checkpoints" / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "run" / "config.yaml").write_bytes((run.folder / "config.yaml").read_bytes())
    with pytest.raises(CheckpointError, match=r"last.ckpt cannot be read: "):
        ssl_fast.pretrain(resume=tmp_path / "run")
    torch.save({"weights": 1}, folder / "last.ckpt")
    with pytest.raises(CheckpointError, match="is not one of ssl-fast pretrain"):
        ssl_fast.pretrain(resume=tmp_path / "run")


def test_bf16_compile_and_layer_decay(tmp_path):
    result = pretrain(tmp_path / "run", steps=2, precision="bf16", layer_decay=0.75, holdout=0.0)
    assert result.finished
    assert weights(result.folder)["model.neck.fc.weight"].dtype == torch.float32


def test_a_compiled_run_is_the_same(run, tmp_path, monkeypatch):
    # The graph alone: what inductor makes of it is torch's affair, and takes a minute.
    compile_with = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: compile_with(self, backend="aot_eager")
    )
    result = pretrain(tmp_path / "run", steps=4, warmup_steps=1, compile=True)
    expected = losses(run.folder)
    assert losses(result.folder)[1] == pytest.approx(expected[1], rel=1e-4)
    assert set(weights(result.folder)) == set(weights(run.folder))


def test_help_shows_the_options():
    shown = inspect.signature(ssl_fast.pretrain)
    assert list(shown.parameters) == list(inspect.signature(PretrainOptions).parameters)


def test_importing_the_package_needs_no_extra():
    code = "import sys, ssl_fast; sys.exit('lightning' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
