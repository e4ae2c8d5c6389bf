"""ssl_fast: faster self-supervised pretraining of vision models in PyTorch."""

from typing import Any

from . import nn, ops
from ._dispatch import Explanation, backend, explain
from ._version import __version__

__all__ = ["Explanation", "__version__", "backend", "explain", "nn", "ops", "pretrain"]


def __getattr__(name: str) -> Any:
    # `pretrain` needs the extra `train`, which the rest does without.
    if name == "pretrain":
        from .training.pretrain import pretrain

        return pretrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
