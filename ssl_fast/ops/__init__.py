"""The operators: functions of tensors, served by whichever backend is best on their device."""

from .hog import hog, hog_tokens
from .masks import block_mask, random_mask

__all__ = ["block_mask", "hog", "hog_tokens", "random_mask"]
