"""Inf-CL's losses for the benchmark; Triton. An ImportError here means: not installed.

It multiplies in TF32, whatever the features' type. `cal_inf_loss` is the same for many processes.
"""

from __future__ import annotations

from collections.abc import Callable

from inf_cl import cal_flash_loss
from torch import Tensor

HEAD = 256  # at most so many features at a time, a power of two


def info_nce(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """(query [N, D], keys [M, D]) to the loss, where key i is query i's."""

    def loss(query: Tensor, keys: Tensor) -> Tensor:
        head = min(HEAD, query.shape[1])
        return cal_flash_loss(query, keys, scale=1 / temperature, head_dim=head).mean()

    return loss


def clip_loss() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(image [N, D], text [N, D], scale) to the mean of both directions' losses."""

    def loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        head = min(HEAD, image.shape[1])
        both = ((image, text), (text, image))
        return sum(cal_flash_loss(*pair, scale=scale, head_dim=head).mean() for pair in both) / 2

    return loss
