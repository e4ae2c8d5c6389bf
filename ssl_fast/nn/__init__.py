"""Modules over the ops, named as users know them."""

from .hog import HOGGenerator
from .patch_dropout import PatchDropout

__all__ = ["HOGGenerator", "PatchDropout"]
