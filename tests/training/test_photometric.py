"""Each sample of a batch is what torchvision makes of it alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssl_fast._compat import import_torchvision
from ssl_fast.training import photometric
from ssl_fast.training.photometric import FIELDS, ORDERS, augmented, blur_matrices, kernel_size

import_torchvision()
from torchvision.transforms.v2 import functional as F  # noqa: E402


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Photographs, noise, flat colours and grays: [8, 3, 60, 60]."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(image).resize((60, 60)) for image in load_sample_images().images]
    noise = torch.randint(0, 256, (2, 3, 60, 60), generator=torch.Generator().manual_seed(0))
    flat = torch.tensor([[0, 0, 0], [255, 255, 255], [200, 30, 90]])[..., None, None]
    gray = torch.arange(60).mul(4).expand(1, 3, 60, 60)
    parts = [
        torch.stack([torch.from_numpy(np.array(photo)).permute(2, 0, 1) for photo in photos]),
        noise,
        flat.expand(3, 3, 60, 60),
        gray,
    ]
    return torch.cat([part.to(torch.uint8) for part in parts])


def drawn(count: int, **values: Any) -> np.ndarray:
    """Parameters that do nothing but what is given."""
    parameters = np.zeros((count, len(FIELDS)), np.float32)
    parameters[:, :3] = 1
    for name, value in values.items():
        parameters[:, FIELDS.index(name)] = value
    return parameters


def distance(left: Tensor, right: Tensor) -> int:
    assert left.dtype == right.dtype == torch.uint8
    return int((left.int() - right.int()).abs().max())


FACTORS = (0.0, 0.2, 0.6, 1.0, 1.4, 1.8, 0.9, 1.1)
TURNS = (-0.5, -0.2, -0.05, 0.0, 0.1, 0.2, 0.35, 0.5)


@pytest.mark.parametrize("order", [0, 9, 23])
@pytest.mark.parametrize(
    ("name", "function", "values", "levels"),
    [
        ("brightness", F.adjust_brightness, FACTORS, 1),
        ("contrast", F.adjust_contrast, FACTORS, 1),
        ("saturation", F.adjust_saturation, FACTORS, 2),  # torchvision rounds the gray down too
        ("hue", F.adjust_hue, TURNS, 1),
    ],
)
def test_a_change_of_colours(
    images: Tensor, order: int, name: str, function: Any, values: Any, levels: int
) -> None:
    got = augmented(images, drawn(8, order=order, **{name: values}))
    for image, value, result in zip(images, values, got, strict=True):
        assert distance(result, function(image, value)) <= levels
    unchanged = values.index(0.0 if name == "hue" else 1.0)
    assert torch.equal(got[unchanged], images[unchanged])


def test_changes_are_done_in_the_order_drawn(images: Tensor) -> None:
    functions = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    values = (1.5, 0.6, 1.6, 0.15)
    names = dict(zip(FIELDS, values, strict=False))
    results = []
    for order in (0, 5, 14, 23):
        got = augmented(images, drawn(8, order=order, **names))
        # In floats, as here: after four roundings of uint8 the hue of a dark colour is another.
        expected = images.double() / 255
        for place in ORDERS[order]:
            expected = functions[place](expected, values[place])
        assert (got - expected * 255).abs().max() <= 0.51
        results.append(got)
    assert not torch.equal(results[0], results[3])
    # Orders of several samples in one batch.
    orders = np.array([0, 5, 14, 23] * 2)
    mixed = augmented(images, drawn(8, order=orders, **names))
    for index in range(8):
        assert torch.equal(mixed[index], results[index % 4][index])


def test_grayscale_solarize_flip(images: Tensor) -> None:
    chosen = np.arange(8) % 3 == 0
    for name, function, levels in (
        ("grayscale", lambda image: F.rgb_to_grayscale(image, 3), 1),
        ("solarize", lambda image: F.solarize(image, 128), 0),
        ("flip", F.horizontal_flip, 0),
    ):
        got = augmented(images, drawn(8, **{name: chosen}))
        for image, change, result in zip(images, chosen, got, strict=True):
            assert distance(result, function(image) if change else image) <= levels


@pytest.mark.parametrize("side", [60, 45, 12])
def test_blur(images: Tensor, side: int) -> None:
    images = images[..., : side - 3, :side]
    size = kernel_size(side - 3)
    sigmas = (0.0, 0.1, 0.3, 0.7, 1.0, 1.5, 2.0, 9.0)
    got = augmented(images, drawn(8, sigma=sigmas))
    assert torch.equal(got[0], images[0])
    for image, sigma, result in zip(images[1:], sigmas[1:], got[1:], strict=True):
        assert distance(result, F.gaussian_blur(image, size, sigma)) <= 1


def test_kernels() -> None:
    assert [kernel_size(side) for side in (1, 2, 8, 32, 96, 224)] == [1, 3, 3, 3, 9, 23]
    matrices = blur_matrices(torch.tensor([0.1, 1.0, 50.0]), 30, 5)
    assert torch.allclose(matrices.sum(2), torch.ones(3, 30))
    assert torch.allclose(matrices[0], torch.eye(30))
    assert torch.allclose(matrices[2, 15, 13:18], torch.full((5,), 0.2), atol=1e-3)
    assert (matrices[:, 15, 18:] == 0).all()


def random_parameters(count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return drawn(
        count,
        brightness=random.uniform(0.2, 1.8, count),
        contrast=random.uniform(0.2, 1.8, count),
        saturation=random.uniform(0.2, 1.8, count),
        hue=random.uniform(-0.2, 0.2, count),
        order=random.integers(0, 24, count),
        grayscale=random.random(count) < 0.2,
        sigma=random.uniform(0.1, 2, count) * (random.random(count) < 0.5),
        solarize=random.random(count) < 0.3,
        flip=random.random(count) < 0.5,
    )


def test_a_sample_does_not_depend_on_the_batch(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = images.repeat(3, 1, 1, 1)
    parameters = random_parameters(24)
    before = batch.clone()
    whole = augmented(batch, parameters)
    assert torch.equal(batch, before)
    assert whole.is_contiguous()
    assert not torch.equal(whole[:8], whole[8:16])
    # To a rounding: the sums of a product may come in another order.
    for index in range(24):
        alone = augmented(batch[index : index + 1], parameters[index : index + 1])
        assert distance(alone[0], whole[index]) <= 1
    monkeypatch.setattr(photometric, "CPU_PIXELS", 60 * 60 * 5)
    assert distance(augmented(batch, parameters), whole) <= 1
    other = augmented(batch.contiguous(memory_format=torch.channels_last), parameters)
    assert torch.equal(other, augmented(batch, parameters))
    tensor = torch.from_numpy(parameters)
    assert torch.equal(augmented(batch, tensor), augmented(batch, parameters))


def test_autocast_and_gradients_play_no_part(images: Tensor) -> None:
    parameters = random_parameters(8)
    expected = augmented(images, parameters)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augmented(images, parameters), expected)
    with torch.inference_mode():
        assert torch.equal(augmented(images, parameters), expected)
    assert torch.equal(augmented(images, parameters), expected)


def test_no_image_and_one_pixel() -> None:
    nothing = torch.empty(0, 3, 8, 8, dtype=torch.uint8)
    assert augmented(nothing, drawn(0)).shape == (0, 3, 8, 8)
    pixel = torch.tensor([[200, 100, 0]], dtype=torch.uint8).view(1, 3, 1, 1)
    got = augmented(pixel, drawn(1, brightness=0.5, flip=1, sigma=2))
    assert got.flatten().tolist() == [100, 50, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"order": 24}, "order 0 to 23"),
        ({"hue": np.nan}, "expected finite ones, order 0 to 23"),
        ({"sigma": -1}, "a sigma of -1.0; expected 0 or more"),
    ],
)
def test_parameters_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augmented(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), drawn(2, **values))


@pytest.mark.parametrize(
    ("shape", "dtype", "parameters", "error", "message"),
    [
        ((2, 3, 8, 8), torch.float32, (2, 9), TypeError, "images is torch.float32"),
        ((2, 1, 8, 8), torch.uint8, (2, 9), ValueError, r"images has shape \(2, 1, 8, 8\)"),
        ((3, 8, 8), torch.uint8, (2, 9), ValueError, r"images has shape \(3, 8, 8\)"),
        ((2, 3, 8, 8), torch.uint8, (3, 9), ValueError, r"\(3, 9\); expected \(2, 9\), brightness"),
    ],
)
def test_errors(shape: Any, dtype: Any, parameters: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        augmented(torch.zeros(shape, dtype=dtype), np.ones(parameters, np.float32))
