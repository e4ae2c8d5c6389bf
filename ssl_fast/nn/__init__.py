"""Modules over the ops, and transforms, named as users know them."""

from typing import TYPE_CHECKING, Any

from .clip import ClipLoss, SigLipLoss
from .contrastive import InfoNCELoss, NTXentLoss
from .hog import HOGGenerator
from .memory_bank import MemoryBank
from .patch_dropout import PatchDropout

if TYPE_CHECKING:
    from .mask_generators import BEiTMaskGenerator, SimMIMMaskGenerator

__all__ = [
    "BEiTMaskGenerator",
    "ClipLoss",
    "HOGGenerator",
    "InfoNCELoss",
    "MemoryBank",
    "NTXentLoss",
    "PatchDropout",
    "SigLipLoss",
    "SimMIMMaskGenerator",
]


def __getattr__(name: str) -> Any:
    # Transforms work on NumPy, which is imported for who uses them.
    if name in ("BEiTMaskGenerator", "SimMIMMaskGenerator"):
        from . import mask_generators

        return getattr(mask_generators, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
