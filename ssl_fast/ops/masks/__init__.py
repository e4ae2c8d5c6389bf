from .block_mask import block_mask

__all__ = ["block_mask"]
