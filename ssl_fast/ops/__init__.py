"""The operators: functions of tensors, served by whichever backend is best on their device."""

from .contrastive import clip_loss, info_nce, info_nce_queue, nt_xent, siglip_loss
from .cross_correlation import barlow_twins_loss
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
from .reconstruction import masked_patch_loss
from .sinkhorn import sinkhorn
from .tokens import embed_visible_patches, gather_tokens, random_masking, restore_tokens

__all__ = [
    "IbotMask",
    "barlow_twins_loss",
    "block_mask",
    "clip_loss",
    "cube_mask",
    "embed_visible_patches",
    "gather_tokens",
    "hog",
    "hog_tokens",
    "ibot_mask",
    "info_nce",
    "info_nce_queue",
    "masked_patch_loss",
    "multiblock_mask",
    "nt_xent",
    "random_mask",
    "random_masking",
    "restore_tokens",
    "siglip_loss",
    "simmim_mask",
    "sinkhorn",
    "tube_mask",
]
