"""What is drawn for views, the crops of a worker, and both halves together."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_fast.training.augment import generator
from ssl_fast.training.photometric import FIELDS, augmented
from ssl_fast.training.sources import open_source
from ssl_fast.training.views import (
    BYOL,
    MOCO_V2,
    SIMCLR,
    SIMSIAM,
    SWAV,
    MultiView,
    View,
    ViewAugmentation,
    chosen,
    expanded,
)


def draws(view: View, count: int = 4000) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return dict(zip(FIELDS, np.stack([view.draw(random) for _ in range(count)]).T, strict=True))


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC)


def test_what_is_drawn_is_the_recipe() -> None:
    found = draws(SIMCLR[0])
    changed = found["brightness"] != 1
    for name, middle, strength in (
        ("brightness", 1, 0.8),
        ("contrast", 1, 0.8),
        ("saturation", 1, 0.8),
        ("hue", 0, 0.2),
    ):
        assert ((found[name] != middle) == changed).all()  # all of a view, or none
        values = (found[name][changed] - middle) / strength
        assert -1 <= values.min() < -0.99
        assert 0.99 < values.max() <= 1
        assert abs(values.mean()) < 0.05
        assert values.std() == pytest.approx(3**-0.5, rel=0.05)  # uniform
    assert changed.mean() == pytest.approx(0.8, abs=0.03)
    assert found["grayscale"].mean() == pytest.approx(0.2, abs=0.03)
    assert found["flip"].mean() == pytest.approx(0.5, abs=0.03)
    assert not found["solarize"].any()
    blurred = found["sigma"][found["sigma"] > 0]
    assert len(blurred) / 4000 == pytest.approx(0.5, abs=0.03)
    assert 0.1 <= blurred.min() < 0.12
    assert 1.98 < blurred.max() <= 2
    assert (np.bincount(found["order"].astype(int), minlength=24) > 100).all()
    pairs = np.corrcoef([found["brightness"], found["contrast"], found["grayscale"]])
    assert np.abs(pairs - np.eye(3)).max() < 0.06


def test_the_two_views_of_byol_differ() -> None:
    first, second = (draws(view) for view in expanded(BYOL))
    assert (first["sigma"] > 0).all()
    assert (second["sigma"] > 0).mean() == pytest.approx(0.1, abs=0.02)
    assert not first["solarize"].any()
    assert second["solarize"].mean() == pytest.approx(0.2, abs=0.03)


def test_strong_changes_have_no_negative_factor() -> None:
    found = draws(View(jitter=(2.0, 1.0, 0.0, 0.0), jitter_p=1.0))
    assert 0 <= found["brightness"].min() < 0.01
    assert 2.99 < found["brightness"].max() <= 3
    assert (found["saturation"] == 1).all()


def test_one_part_of_a_recipe_leaves_the_others_as_they_were() -> None:
    without = draws(dataclasses.replace(SIMCLR[0], jitter_p=0.0, blur=0.0), 50)
    found = draws(SIMCLR[0], 50)
    assert (without["brightness"] == 1).all()
    for name in ("order", "grayscale", "flip"):
        assert (without[name] == found[name]).all()


def test_recipes_and_sides() -> None:
    for views, count in ((SIMCLR, 2), (MOCO_V2, 2), (SIMSIAM, 2), (BYOL, 2), (SWAV, 8)):
        one_by_one = expanded(views)
        assert len(one_by_one) == count
        assert all(view.count == 1 for view in one_by_one)
        assert [view.local for view in one_by_one] == [False] * 2 + [True] * (count - 2)
    local = SWAV[1]
    assert [local.side(224, multiple) for multiple in (1, 8, 16, 14)] == [96, 96, 96, 98]
    assert [local.side(32, multiple) for multiple in (1, 8, 16)] == [14, 16, 16]
    assert SIMCLR[0].side(100, 16) == 100  # the user's own size


def test_what_the_user_chooses() -> None:
    assert chosen(SWAV) == list(SWAV)
    whole, local = chosen(SWAV, crop_scale=(0.3, 0.9), flip=False, jitter=0.5, local_views=3)
    assert (whole.scale, local.scale) == ((0.3, 0.9), SWAV[1].scale)
    assert (whole.flip, local.flip) == (0, 0)
    assert whole.jitter == (0.4, 0.4, 0.4, 0.1)
    assert (whole.count, local.count) == (2, 3)
    assert len(expanded(chosen(SWAV, local_views=0))) == 2
    assert chosen(SIMCLR, jitter=4.0)[0].jitter[3] == 0.5
    assert chosen(chosen(SIMCLR, flip=False), flip=True) == list(SIMCLR)


def test_digits_stay_legible() -> None:
    source = open_source("digits")
    for view in (*SIMCLR, *BYOL, *SWAV):
        suited = source.suited(view)
        assert (suited.flip, suited.grayscale, suited.solarize) == (0, 0, 0)
        assert suited.jitter[2:] == (0, 0)
        assert suited.scale[0] >= 0.3
        assert (suited.size, suited.count) == (view.size, view.count)


def test_views_are_functions_of_seed_epoch_sample_and_place() -> None:
    make = MultiView(SWAV, 64, 16)
    image = picture()
    views, parameters = make(image, 1, 2, 3)
    assert [tuple(view.shape) for view in views] == [(3, 64, 64)] * 2 + [(3, 32, 32)] * 6
    assert parameters.shape == (8, 9)
    assert parameters.dtype == np.float32
    again, same = make(image, 1, 2, 3)
    assert all(map(torch.equal, views, again))
    assert (parameters == same).all()
    for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        others, different = make(image, *key)
        assert not any(map(torch.equal, views, others))
        assert (parameters != different).any(axis=1).all()
    for first in range(8):
        for second in range(first):
            assert (parameters[first] != parameters[second]).any()
    assert not torch.equal(views[0], views[1])
    # What a view is does not depend on how many others there are.
    fewer, _ = MultiView(chosen(SWAV, local_views=1), 64, 16)(image, 1, 2, 3)
    assert all(map(torch.equal, fewer, views))
    assert len(fewer) == 3


def test_crops_are_in_the_range_of_their_view() -> None:
    make = MultiView(SWAV, 64)
    assert make.decode_size() == make.views[0].crop.decode_size(64)
    small = [view.crop.crop(400, 400, generator(0, 0, i)) for i, view in enumerate(make.views)]
    shares = [(right - left) * (bottom - top) / 160000 for left, top, right, bottom in small]
    assert all(0.14 <= share <= 1 for share in shares[:2])
    assert all(0.05 <= share <= 0.14 for share in shares[2:])


def test_the_module_does_what_was_drawn() -> None:
    make, augment = MultiView(SWAV, 32), ViewAugmentation(SWAV)
    items = [make(picture(), 0, 0, sample) for sample in range(3)]
    inputs = [torch.stack(views) for views in zip(*(views for views, _ in items), strict=True)]
    parameters = np.stack([drawn for _, drawn in items])
    result = augment(inputs, parameters)
    for place, view in enumerate(result):
        assert view.dtype == torch.uint8
        assert torch.equal(view, augmented(inputs[place], parameters[:, place]))
    assert not augment.state_dict()


def test_the_module_draws_from_torchs_generator() -> None:
    augment = ViewAugmentation(SIMCLR)
    inputs = [torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)] * 2
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(augment(inputs))
    assert all(map(torch.equal, results[0], results[1]))
    assert not torch.equal(results[0][0], results[2][0])
    assert not torch.equal(results[0][0], results[0][1])
    assert len({augment.draw(2).tobytes() for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        (
            torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
            None,
            "inputs are one tensor; expected a list",
        ),
        ([torch.zeros(2, 3, 8, 8, dtype=torch.uint8)], None, "inputs are 1 views; expected .* 2"),
        (
            [torch.zeros(2, 3, 8, 8, dtype=torch.uint8)] * 2,
            np.zeros((2, 3, 9)),
            r"parameters has shape \(2, 3, 9\); expected \[N, 2, 9\]",
        ),
    ],
)
def test_module_errors(inputs: Any, parameters: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewAugmentation(SIMCLR)(inputs, parameters)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": -1}, "count is -1"),
        ({"size": 1.5}, "size is 1.5"),
        ({"scale": (0.0, 1.0)}, r"scale is \(0.0, 1.0\)"),
        ({"ratio": (2.0, 1.0)}, "ratio is"),
        ({"jitter": (0.4, 0.4, 0.4)}, "jitter is .* expected four strengths"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "turns hue by 0.6; expected 0.5 at most"),
        ({"jitter": (-0.4, 0.4, 0.4, 0.1)}, "jitter is"),
        ({"grayscale": 1.2}, "grayscale is 1.2; expected 0 to 1"),
        ({"blur": -0.1}, "blur is -0.1"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma is"),
    ],
)
def test_views_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        View(**options)
