"""The operators: functions of tensors, served by whichever backend is best on their device."""

from .hog import hog, hog_tokens
from .masks import (
    IbotMask,
    block_mask,
    cube_mask,
    ibot_mask,
    multiblock_mask,
    random_mask,
    simmim_mask,
    tube_mask,
)
from .tokens import embed_visible_patches, gather_tokens, random_masking, restore_tokens

__all__ = [
    "IbotMask",
    "block_mask",
    "cube_mask",
    "embed_visible_patches",
    "gather_tokens",
    "hog",
    "hog_tokens",
    "ibot_mask",
    "multiblock_mask",
    "random_mask",
    "random_masking",
    "restore_tokens",
    "simmim_mask",
    "tube_mask",
]
