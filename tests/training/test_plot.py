"""The curve of a run: what is drawn, where, and what cannot be drawn."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from ssl_fast.training.plot import plot_loss, smooth


@pytest.fixture
def scales(monkeypatch):
    """Axes whose scale was set, by name."""
    seen = []
    original = Axes.set_yscale

    def record(self, value, **options):
        seen.append(value)
        return original(self, value, **options)

    monkeypatch.setattr(Axes, "set_yscale", record)
    return seen


def colours(path):
    """Numbers of blue (loss) and orange (k-NN) pixels."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return [(np.abs(pixels - wanted).sum(axis=2) < 40).sum() for wanted in BLUE_ORANGE]


BLUE_ORANGE = (np.array([31, 119, 180]), np.array([255, 127, 14]))
STEPS = list(range(100))
FALLING = [2 * 0.95**step for step in STEPS]


def test_draws_loss_and_accuracy_without_pyplot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # its import would raise
    monkeypatch.delenv("DISPLAY", raising=False)
    evaluations = [{"step": 0, "knn": 0.5}, {"step": 99, "knn": 0.9, "linear": 0.95}]
    plot_loss(tmp_path / "loss.png", STEPS, FALLING)
    blue, orange = colours(tmp_path / "loss.png")
    assert blue > 500
    assert orange == 0
    plot_loss(tmp_path / "loss.png", STEPS, FALLING, evaluations)
    assert colours(tmp_path / "loss.png")[1] > 300
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]


@pytest.mark.parametrize(
    ("losses", "logarithmic"),
    [
        (FALLING, True),
        ([*FALLING[:-1], float("nan")], True),
        ([loss + 1 for loss in FALLING], False),
        ([loss - 0.1 for loss in FALLING], False),
        ([*FALLING[:-1], 0.0], False),
    ],
)
def test_log_axis_only_where_it_can_be(tmp_path, scales, losses, logarithmic):
    plot_loss(tmp_path / "loss.png", STEPS, losses)
    assert scales == (["log"] if logarithmic else [])


@pytest.mark.parametrize(
    "losses", [[1.5], [float("nan")], [float("nan"), 1.0, float("inf"), 2.0], [0.0, 0.0]]
)
def test_short_and_broken_runs(tmp_path, losses):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_loss(tmp_path / "loss.png", range(len(losses)), losses, [])
    blue, _ = colours(tmp_path / "loss.png")
    assert blue > 0


def test_a_million_steps(tmp_path):
    plot_loss(tmp_path / "loss.png", range(10**6), np.random.default_rng(0).random(10**6))
    assert colours(tmp_path / "loss.png")[0] > 500


def test_smooth_is_the_mean_of_a_window():
    values = np.random.default_rng(0).random(450)
    values[100:103] = values[300:320] = np.nan
    expected = []
    for i in range(450):
        window = values[max(i - 4, 0) : i + 5]
        known = window[~np.isnan(window)]
        expected.append(known.mean() if len(known) else np.nan)
    np.testing.assert_allclose(smooth(values), expected, rtol=1e-12)
    assert np.isnan(smooth(values)).sum() == 12


@pytest.mark.parametrize(("steps", "losses"), [([], []), ([1, 2], [1.0])])
def test_errors(tmp_path, steps, losses):
    with pytest.raises(ValueError, match="steps and losses"):
        plot_loss(tmp_path / "loss.png", steps, losses)
