"""When a collapse is named, and what is shown of the measures."""

import io

import pytest
import torch
from rich.console import Console

from ssl_fast.training.collapse import SAMPLES, CollapseWatch, spread
from ssl_fast.training.options import PretrainOptions
from ssl_fast.training.plan import plan
from ssl_fast.training.progress import Progress


def features(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_spread_of_features():
    found = spread(features(500, 16))
    assert found["backbone_std"] == pytest.approx(1, abs=0.03)
    assert 15 < found["rankme"] <= 16
    found = spread(torch.ones(500, 16))
    assert found["backbone_std"] < 1e-3
    assert found["rankme"] == pytest.approx(1, abs=0.01)
    assert set(spread(features(1, 16))) == {"rankme"}
    assert spread(features(9, 4) / 0) == {}


def test_samples_are_taken_from_all_over():
    many = features(3 * SAMPLES, 4)
    many[: 2 * SAMPLES] = 1  # the first two thirds have collapsed
    assert 0.3 < spread(many)["backbone_std"] < 0.9


def test_a_collapse_is_said_once_and_again_after_a_recovery():
    watch = CollapseWatch(10)
    assert watch.warning({"step": 10, "feature_std": 0.01}) is None  # still warming up
    assert watch.warning({"step": 11, "feature_std": 0.5}) is None
    said = watch.warning({"step": 12, "feature_std": 0.034})
    assert said.startswith("step 12: collapse: the embeddings of a batch spread by 0.034")
    assert watch.warning({"step": 13, "feature_std": 0.03}) is None
    assert watch.warning({"step": 14, "loss": 1.0}) is None  # not measured
    assert watch.warning({"step": 15, "feature_std": 0.02}) is None
    assert watch.warning({"step": 16, "feature_std": 0.9}) is None
    assert "step 17" in watch.warning({"step": 17, "feature_std": 0.02})


def test_each_measure_has_its_words():
    said = CollapseWatch(0).warning({"step": 1, "backbone_std": 0.05, "rankme": 1.31})
    assert "the backbone's features spread by 0.05" in said
    assert "use 1.31 dimensions (RankMe)" in said
    assert "hardly tells images apart" in said
    assert CollapseWatch(0).warning({"step": 1, "backbone_std": 0.2, "rankme": 2.5}) is None


@pytest.mark.parametrize(
    ("measures", "text"),
    [
        ({"feature_std": 0.978, "rankme": 56.7}, "loss 0.5  std 0.98, rank 57  100 images/s"),
        ({"rankme": 56.7}, "loss 0.5  rank 57  100 images/s"),
        ({}, "loss 0.5  100 images/s"),
    ],
)
def test_the_live_line(measures, text):
    out = io.StringIO()
    progress = Progress(Console(file=out, width=200), plan(PretrainOptions(steps=4), 256))
    progress.start(0)
    speed = {"images_per_s": 100.0, "data_share": 0.0, "memory_mb": 1.0}
    progress.update({"step": 4, "epoch": 0, "loss": 0.5, **speed, **measures})
    assert text in out.getvalue()
