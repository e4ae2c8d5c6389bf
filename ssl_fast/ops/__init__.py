"""The operators: functions of tensors, served by whichever backend is best on their device."""

from .hog import hog, hog_tokens
from .masks import block_mask, random_mask
from .tokens import embed_visible_patches, gather_tokens, random_masking, restore_tokens

__all__ = [
    "block_mask",
    "embed_visible_patches",
    "gather_tokens",
    "hog",
    "hog_tokens",
    "random_mask",
    "random_masking",
    "restore_tokens",
]
