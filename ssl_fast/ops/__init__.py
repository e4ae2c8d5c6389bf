"""The operators: functions of tensors, served by whichever backend is best on their device."""

from .hog import hog, hog_tokens

__all__ = ["hog", "hog_tokens"]
