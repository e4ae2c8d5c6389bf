"""Modules over the ops, named as users know them."""

from .hog import HOGGenerator
from .mask_generators import BEiTMaskGenerator, SimMIMMaskGenerator
from .patch_dropout import PatchDropout

__all__ = ["BEiTMaskGenerator", "HOGGenerator", "PatchDropout", "SimMIMMaskGenerator"]
