"""Registration of ops and choice of who serves them."""

from .backends import backend, is_forced
from .explain import Explanation, explain
from .gradients import formed_in_forward
from .library import OPS, Op, register

__all__ = [
    "OPS",
    "Explanation",
    "Op",
    "backend",
    "explain",
    "formed_in_forward",
    "is_forced",
    "register",
]
