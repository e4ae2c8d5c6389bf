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

__all__ = [
    "IbotMask",
    "block_mask",
    "cube_mask",
    "hog",
    "hog_tokens",
    "ibot_mask",
    "multiblock_mask",
    "random_mask",
    "simmim_mask",
    "tube_mask",
]
