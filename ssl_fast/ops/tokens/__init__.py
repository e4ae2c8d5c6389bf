from .embed import embed_visible_patches
from .gather import gather_tokens
from .restore import restore_tokens

__all__ = ["embed_visible_patches", "gather_tokens", "restore_tokens"]
