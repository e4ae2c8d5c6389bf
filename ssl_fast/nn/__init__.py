"""Modules over the ops, named as users know them."""

from .hog import HOGGenerator
from .mask_generators import BEiTMaskGenerator, SimMIMMaskGenerator

__all__ = ["BEiTMaskGenerator", "HOGGenerator", "SimMIMMaskGenerator"]
