"""open_clip's losses for the benchmark. An ImportError here means: not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ssl_fast._compat.torchvision import import_torchvision

import_torchvision()
from open_clip.loss import ClipLoss, SigLipLoss  # noqa: E402


def clip_loss() -> Callable[..., Any]:
    """(image [N, D], text [N, D], scale) to the loss."""
    return ClipLoss()


def siglip_loss() -> Callable[..., Any]:
    """(image [N, D], text [N, D], scale, bias) to the loss."""
    return SigLipLoss()
