from .masked_patch_loss import masked_patch_loss

__all__ = ["masked_patch_loss"]
