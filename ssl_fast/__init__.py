"""ssl_fast: faster self-supervised pretraining of vision models in PyTorch."""

from . import nn, ops
from ._dispatch import Explanation, backend, explain
from ._version import __version__

__all__ = ["Explanation", "__version__", "backend", "explain", "nn", "ops"]
