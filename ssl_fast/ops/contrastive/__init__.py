"""Contrastive similarity: SimCLR's, MoCo's, CLIP's and SigLIP's losses."""

from .clip import clip_loss, siglip_loss
from .info_nce import info_nce, info_nce_queue
from .nt_xent import nt_xent

__all__ = ["clip_loss", "info_nce", "info_nce_queue", "nt_xent", "siglip_loss"]
