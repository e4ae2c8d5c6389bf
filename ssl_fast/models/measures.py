"""How far embeddings are from a collapse, in which all images have the same."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-7  # added to the shares of singular values, as in RankMe


@torch.no_grad()
def feature_std(embeddings: Tensor) -> Tensor:
    """Spread of embeddings of length 1: 1 if they point in all directions, 0 if all in one.

    The standard deviation of each dimension over the samples, averaged, times sqrt(D). The device
    is not waited for, so it can be taken in every step and returned by `loss()` beside the losses.

    Source: Chen, He, "Exploring Simple Siamese Representation Learning" (2021), section 4.1.

    Args:
        embeddings: [N, D], floats; their lengths do not count.

    Returns:
        A scalar float32 without graph; NaN for fewer than two samples, which have no spread.

    Raises:
        TypeError, ValueError: for other tensors.
    """
    _check(embeddings)
    if len(embeddings) < 2:
        return torch.full((), math.nan, device=embeddings.device)
    unit = F.normalize(embeddings.detach().float(), dim=1)
    return unit.std(dim=0).mean() * math.sqrt(unit.shape[1])


@torch.no_grad()
def rankme(features: Tensor) -> Tensor:
    """The number of dimensions that features really use, from 1 (collapsed) to min(N, D).

    exp of the entropy of the singular values' shares of their sum. Computed in float64 from the
    smaller of the two Gram matrices; a singular value is lost below 1e-8 of the largest, which is
    less than what is added to each.

    Source: Garrido et al., "RankMe" (2023).

    Args:
        features: [N, D], finite floats; not centred here, as in the paper.

    Returns:
        A scalar float64 without graph; 1 if all features are 0.

    Raises:
        TypeError, ValueError: for other tensors.
    """
    _check(features)
    if not features.numel():
        raise ValueError(f"features has shape {tuple(features.shape)}; expected at least 1 x 1")
    x = features.detach().double()
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    total = values.sum()
    if total == 0:
        return torch.ones((), dtype=torch.float64, device=x.device)
    shares = values / total + EPSILON
    # The shares sum to a little more than 1, so that a rank of 1 would come out a little below.
    return torch.exp(-(shares * shares.log()).sum()).clamp(min=1)


def _check(features: Tensor) -> None:
    if not isinstance(features, Tensor) or not features.is_floating_point():
        got = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"features is {got}; expected a tensor of floats [N, D]")
    if features.dim() != 2 or not features.shape[1]:
        raise ValueError(f"features has shape {tuple(features.shape)}; expected [N, D]")
