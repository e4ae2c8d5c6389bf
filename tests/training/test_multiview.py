"""Whole runs of a method that takes several views."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

import ssl_fast
from ssl_fast.training.methods import METHODS
from ssl_fast.training.photometric import FLIP, HUE, augmented
from ssl_fast.training.views import MOCO_V2

from . import multiview
from .runs import TINY, losses, pretrain, same_weights, weights

# Without dropped paths, which are drawn anew for each part and process.
OPTIONS = {**TINY["backbone_options"], "drop_path_rate": 0.0}


@pytest.fixture(scope="module", autouse=True)
def _methods():
    """Methods for these tests alone."""
    METHODS["contrast"] = multiview.method()
    METHODS["contrast-whole"] = multiview.method(MOCO_V2)
    yield
    del METHODS["contrast"], METHODS["contrast-whole"]


def train(folder, **options):
    return pretrain(folder, **{"method": "contrast", "backbone_options": OPTIONS, **options})


@pytest.fixture(scope="module")
def run(_methods, tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "whole")


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run(run):
    assert run.finished
    assert run.after["knn"] > 0
    steps = [record for record in records(run.folder) if "loss" in record]
    assert len(steps) == 10
    assert all(0 < record["feature_std"] < 1.5 for record in steps)
    evaluations = [record for record in records(run.folder) if "knn" in record]
    assert [record["step"] for record in evaluations] == [0, 10]
    assert all(record["rankme"] > 1 and record["backbone_std"] > 0 for record in evaluations)
    assert "collapse" not in (run.folder / "train.log").read_text()


def test_the_panel_shows_the_views(run):
    panel = Image.open(run.folder / "panels" / "step-0000010.png")
    assert panel.width > 5 * 128  # input, two views, two small ones
    assert panel.height > 6 * 128


def test_workers_change_nothing(run, tmp_path):
    again = train(tmp_path / "workers", workers=2)
    assert same_weights(weights(run.folder), weights(again.folder))
    assert losses(run.folder) == losses(again.folder)


def test_going_on_is_as_if_it_had_never_stopped(tmp_path):
    options = dict(warmup_steps=1, min_lr=0.003)
    whole = train(tmp_path / "whole", **options)
    part = train(tmp_path / "part", steps=7, **options)
    rest = ssl_fast.pretrain(resume=part.folder, steps=10)
    assert (rest.step, rest.finished) == (10, True)
    assert same_weights(weights(whole.folder), weights(part.folder))
    for name in ("loss", "feature_std"):
        one, other = (
            [record[name] for record in records(result.folder) if name in record]
            for result in (whole, part)
        )
        assert len(one) == 10
        assert one == other


def test_options_of_views(tmp_path, monkeypatch):
    seen = []
    loss = multiview.ViewContrast.loss

    def spy(self, inputs, data_samples=None):
        seen.append([tuple(view.shape) for view in inputs])
        assert all(view.dtype == torch.uint8 for view in inputs)
        return loss(self, inputs, data_samples)

    monkeypatch.setattr(multiview.ViewContrast, "loss", spy)
    train(tmp_path / "one", steps=1, local_views=1, holdout=0.0)
    train(tmp_path / "three", steps=1, local_views=3, image_size=32, accumulate=2, holdout=0.0)
    # 96 / 224 of the side, in whole patches of 8 pixels.
    assert seen[0] == [(16, 3, 16, 16)] * 2 + [(16, 3, 8, 8)]
    assert seen[1] == [(8, 3, 32, 32)] * 2 + [(8, 3, 16, 16)] * 3


def test_parts_of_a_batch_have_its_views_and_options_reach_them(tmp_path, monkeypatch):
    drawn = []

    def spy(images, parameters):
        drawn.append((images.clone(), parameters))
        return augmented(images, parameters)

    def train_and_see(name, **options):
        drawn.clear()
        train(tmp_path / name, method="contrast-whole", steps=2, holdout=0.0, **options)
        return drawn[2:]  # after the two views of the first panel

    monkeypatch.setattr("ssl_fast.training.views.augmented", spy)
    whole = train_and_see("whole")
    parts = train_and_see("parts", accumulate=4)
    for step in range(2):
        for view in range(2):
            images, parameters = whole[2 * step + view]
            pieces = [parts[8 * step + 2 * part + view] for part in range(4)]
            assert torch.equal(torch.cat([piece[0] for piece in pieces]), images)
            assert (np.concatenate([piece[1] for piece in pieces]) == parameters).all()
    assert not any(parameters[:, [HUE, FLIP]].any() for _, parameters in whole)  # of digits
    chosen = train_and_see("chosen", flip=True, jitter=0.0)
    assert all(parameters[:, FLIP].any() for _, parameters in chosen)
    assert all((parameters[:, :3] == 1).all() for _, parameters in chosen)


def test_a_collapse_is_named(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(multiview.ViewContrast, "collapsed", True)
    result = train(tmp_path / "run", log_steps=1, holdout=0.0)
    text = (result.folder / "train.log").read_text()
    assert text.count("WARNING step 2: collapse: the embeddings of a batch spread by 0 ") == 1
    assert text.count("embeddings of a batch") == 1
    assert "std 0.00" in capfd.readouterr().out
    assert not logging.getLogger("ssl_fast").handlers


def test_images_without_labels_are_judged_by_their_rank(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{number}.png")
    result = train(tmp_path / "run", data=tmp_path / "data", steps=4, batch_size=8)
    assert result.finished
    assert result.before is None
    ranks = {r["step"]: r["rankme"] for r in records(result.folder) if "rankme" in r}
    assert list(ranks) == [0, 3, 4]  # before, after a pass over the data, at the end
    text = (result.folder / "train.log").read_text()
    assert f"step 4: features use {ranks[4]:.1f} dimensions" in text
    best = torch.load(result.folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == (3 if ranks[3] >= ranks[4] else 4)
