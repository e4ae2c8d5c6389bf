from .embed import embed_visible_patches
from .gather import gather_tokens
from .masking import random_masking
from .restore import restore_tokens

__all__ = ["embed_visible_patches", "gather_tokens", "random_masking", "restore_tokens"]
