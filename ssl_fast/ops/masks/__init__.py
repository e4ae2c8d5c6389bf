from .block_mask import block_mask
from .random_mask import random_mask

__all__ = ["block_mask", "random_mask"]
