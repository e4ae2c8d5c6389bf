"""Probes of frozen features against their definition, and what embedding leaves untouched."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_fast.training.evaluate import ProbeResult, embed, probe


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)


def blobs(count, spread, seed, dims=12, classes=3):
    """Samples around one centre a class: x [count, dims], y [count]."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % classes
    centres = torch.eye(classes, dims)
    return centres[y] + spread * torch.randn(count, dims, generator=generator), y


class Net(nn.Module):
    """A module whose evaluation mode shows, with a part that its owner keeps frozen."""

    def __init__(self):
        super().__init__()
        self.live = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
        self.frozen = nn.Dropout(0.5).eval()

    def forward(self, x):
        return self.frozen(self.live(x.half()))


def test_embed_joins_batches():
    x = images(7)
    batches = [(x[:4], [0, 1, 2, 3]), (x[4:], torch.tensor([4, 5, 6], dtype=torch.int32))]
    features, labels = embed(lambda batch: batch.flatten(1).double() * 2, batches)
    assert torch.equal(features, x.flatten(1).float() * 2)
    assert features.dtype == torch.float32
    assert torch.equal(labels, torch.arange(7))
    assert labels.dtype == torch.int64


def test_embed_leaves_modes_gradients_and_random_state():
    net = Net()
    dataset = torch.utils.data.TensorDataset(images(6), torch.arange(6))
    loader = torch.utils.data.DataLoader(dataset, batch_size=4)  # draws a seed when it starts
    state = torch.get_rng_state()
    first, _ = embed(net, loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, images(6).flatten(1).float())  # without dropout
    assert net.training
    assert net.live[1].training
    assert not net.frozen.training
    weight = torch.zeros(48, 2, requires_grad=True)
    (first @ weight).sum().backward()  # inference tensors could not be saved for this


def test_embed_restores_modes_after_a_failure():
    net = Net()
    with pytest.raises(AttributeError):
        embed(net, [("no tensor", [0])])
    assert net.training
    assert net.live[1].training


def test_embed_makes_no_graph():
    seen = []
    weight = torch.ones(48, 2, requires_grad=True)

    def features(batch):
        seen.append((batch.flatten(1).float() @ weight).requires_grad)
        return batch.flatten(1).float() @ weight

    assert not embed(features, [(images(2), [0, 1])])[0].requires_grad
    assert seen == [False]


@pytest.mark.parametrize(
    ("features", "batches", "message"),
    [
        (lambda x: x.flatten(1), [], "batches is empty"),
        (lambda x: x, [(images(2), [0, 1])], r"made \(2, 3, 4, 4\) of 2 images"),
        (lambda x: x.flatten(1)[:1], [(images(2), [0, 1])], r"made \(1, 48\) of 2 images"),
        (lambda x: x.flatten(1), [(images(2), [0])], r"labels has shape \(1,\)"),
    ],
)
def test_embed_errors(features, batches, message):
    with pytest.raises(ValueError, match=message):
        embed(features, batches)


def dino_knn(train, test, neighbours):
    """Accuracy by the definition in DINO's evaluation, in plain torch."""
    (x, y), (held_x, held_y) = train, test
    similarity = F.normalize(held_x, dim=1) @ F.normalize(x, dim=1).t()
    value, index = similarity.topk(min(neighbours, len(x)))
    votes = torch.zeros(len(held_x), int(y.max()) + 1)
    votes.scatter_add_(1, y[index], (value / 0.07).exp())
    return (votes.argmax(1) == held_y).double().mean().item()


@pytest.mark.parametrize("neighbours", [1, 5, 20, 1000])
def test_knn_is_dinos(neighbours):
    train, test = blobs(150, 0.6, seed=0), blobs(90, 0.6, seed=1)
    expected = dino_knn(train, test, neighbours)
    assert 0.5 < expected < 0.95
    assert probe(train, test, neighbours=neighbours).knn == pytest.approx(expected, abs=1e-9)


def test_near_neighbours_outvote_a_majority_and_length_does_not_count():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 9.0]])
    result = probe((x, torch.tensor([7, 3, 3])), (torch.tensor([[5.0, 1.0]]), torch.tensor([7])))
    assert result == ProbeResult(knn=1.0, linear=result.linear, num_train=3, num_test=1)


def test_separate_classes_are_found_and_noise_is_not():
    result = probe(blobs(120, 0.05, seed=0), blobs(60, 0.05, seed=1))
    assert result == ProbeResult(1.0, 1.0, 120, 60)
    (x, y), (held_x, held_y) = blobs(300, 1.0, seed=0), blobs(300, 1.0, seed=1)
    noise = probe((torch.randn_like(x), y), (torch.randn_like(held_x), held_y))
    assert noise.knn < 0.5
    assert noise.linear < 0.5


def test_linear_probe_does_not_care_about_the_scale_of_features():
    (x, y), (held_x, held_y) = blobs(150, 0.5, seed=0), blobs(90, 0.5, seed=1)
    scale = torch.logspace(-6, 6, 12)
    plain = probe((x, y), (held_x, held_y)).linear
    assert plain > 0.5
    scaled = probe((x * scale + scale, y), (held_x * scale + scale, held_y)).linear
    assert scaled == pytest.approx(plain, abs=0.03)


def test_is_deterministic_silent_and_takes_arrays(monkeypatch):
    monkeypatch.setattr("ssl_fast.training.evaluate.MAX_ITERATIONS", 1)  # cannot converge
    train, test = blobs(100, 0.5, seed=0), blobs(50, 0.5, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = probe(train, test)
        arrays = [tuple(part.numpy() for part in split) for split in (train, test)]
        assert probe(*arrays) == first


def test_digits_by_their_pixels():
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x, y = digits.data[order], digits.target[order]
    result = probe((x[:1437], y[:1437]), (x[1437:], y[1437:]))
    assert result.num_test == 360
    assert result.knn > 0.95
    assert result.linear > 0.93


X, Y = torch.eye(4), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        ((X[:0], Y[:0]), (X, Y), {}, "train is empty"),
        ((X, Y), (X[:0], Y[:0]), {}, "test is empty"),
        ((X, Y * 0 + 3), (X, Y), {}, "class 3 alone"),
        ((X, Y[:2]), (X, Y), {}, r"features \(4, 4\) and labels \(2,\)"),
        ((X, Y), (X[:, :3], Y), {}, "train has 4 features a sample, test 3"),
        ((X, Y), (X * torch.nan, Y), {}, "test has features that are NaN"),
        ((X, Y), (X, Y), {"neighbours": 0}, "neighbours is 0"),
    ],
)
def test_probe_errors(train, test, options, message):
    with pytest.raises(ValueError, match=message):
        probe(train, test, **options)
