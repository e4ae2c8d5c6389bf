"""How good frozen features are: k-NN and a linear probe on labelled images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TEMPERATURE = 0.07  # of the neighbours' votes, as in DINO (Caron et al., 2021)
MAX_ITERATIONS = 200  # of the linear probe's solver; standardised features need fewer


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies, 0 to 1, on held-out samples, and how many samples there were."""

    knn: float
    linear: float
    num_train: int
    num_test: int


def embed(
    features: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Any]]
) -> tuple[Tensor, Tensor]:
    """Features and labels of all images, on the CPU.

    Without gradients, in evaluation mode if `features` is a module (its modes come back after),
    and without moving torch's random state, which a DataLoader draws from.

    Args:
        features: from uint8 images [N, 3, H, W] to [N, D]; moves them to its device itself.
        batches: pairs of images and their N integer labels.

    Returns:
        x [M, D] float32 and y [M] int64.

    Raises:
        ValueError: if there is no batch, or features or labels have another shape.
    """
    embedded, labels = [], []
    with _evaluation_mode(features), torch.random.fork_rng(devices=[]):
        for images, targets in batches:
            with torch.inference_mode():
                x = features(images)
                x = x.float().cpu()
            y = torch.as_tensor(targets).to("cpu", torch.int64)
            if x.dim() != 2 or len(x) != len(images):
                got = f"features has made {tuple(x.shape)} of {len(images)} images"
                raise ValueError(f"{got}; expected [{len(images)}, D]")
            if tuple(y.shape) != (len(images),):
                raise ValueError(f"labels has shape {tuple(y.shape)}; expected ({len(images)},)")
            embedded.append(x)
            labels.append(y)
    if not embedded:
        raise ValueError("batches is empty; expected at least one batch of images and labels")
    # Outside of inference mode, so that a head can be trained on the result.
    return torch.cat(embedded), torch.cat(labels)


@contextmanager
def _evaluation_mode(features: Any) -> Iterator[None]:
    modules = features.modules() if isinstance(features, nn.Module) else ()
    # One by one: train() on the whole would wake parts that its owner keeps in evaluation mode.
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def probe(train: tuple[Any, Any], test: tuple[Any, Any], *, neighbours: int = 20) -> ProbeResult:
    """Accuracy of two classifiers fitted to frozen features.

    k-NN: the nearest training samples by cosine similarity vote, each with exp(similarity / 0.07),
    as in DINO. Linear: multinomial logistic regression on standardised features.

    Args:
        train, test: features [M, D] and integer labels [M], tensors on the CPU or arrays.
        neighbours: votes for each sample; all the training samples where they are fewer.

    Raises:
        ValueError: for an empty split, other shapes, features that are not finite, fewer than two
            classes in `train`, or neighbours below 1.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _check_split("train", *train)
    held_x, held_y = _check_split("test", *test)
    if x.shape[1] != held_x.shape[1]:
        raise ValueError(f"train has {x.shape[1]} features a sample, test {held_x.shape[1]}")
    if len(np.unique(y)) < 2:
        raise ValueError(f"train has samples of class {y[0]} alone; expected at least 2 classes")
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}; expected 1 or more")

    knn = KNeighborsClassifier(
        min(neighbours, len(x)), weights=_votes, algorithm="brute", metric="cosine"
    )
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():
        # Features that collapsed or separate perfectly stop at the bound: good enough a measure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = [float(model.fit(x, y).score(held_x, held_y)) for model in (knn, linear)]
    return ProbeResult(scores[0], scores[1], len(x), len(held_x))


def _votes(distance: np.ndarray) -> np.ndarray:
    """Weights of neighbours at a cosine distance; a factor common to all changes no vote."""
    return np.exp(-distance / TEMPERATURE)


def _check_split(name: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=np.float32), np.asarray(y)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(
            f"{name} has features {x.shape} and labels {y.shape}; expected [M, D] and [M]"
        )
    if not x.size:
        raise ValueError(f"{name} is empty: features {x.shape}; expected at least one sample")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} has features that are NaN or infinite")
    return x, y
