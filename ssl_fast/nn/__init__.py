"""Modules over the ops, named as users know them."""

from .hog import HOGGenerator

__all__ = ["HOGGenerator"]
