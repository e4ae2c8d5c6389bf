from .block_mask import block_mask
from .ibot_mask import IbotMask, ibot_mask
from .multiblock_mask import multiblock_mask
from .random_mask import random_mask
from .simmim_mask import simmim_mask
from .video_masks import cube_mask, tube_mask

__all__ = [
    "IbotMask",
    "block_mask",
    "cube_mask",
    "ibot_mask",
    "multiblock_mask",
    "random_mask",
    "simmim_mask",
    "tube_mask",
]
