"""Registration of ops and choice of who serves them."""

from .backends import backend
from .explain import Explanation, explain
from .library import OPS, Op, register

__all__ = ["OPS", "Explanation", "Op", "backend", "explain", "register"]
