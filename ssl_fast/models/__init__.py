"""Self-supervised models, built from modules or from config dicts.

torch is enough for the import; only a backbone of another library needs that library.
"""

from ..nn import HOGGenerator
from .backbones import TimmBackbone
from .base import BaseSelfSupervisor
from .masked import MaskedSwin, MaskedViT
from .maskfeat import MaskFeat
from .parts import LinearNeck, MIMHead, PixelReconstructionLoss
from .preprocess import SelfSupDataPreprocessor, TwoNormDataPreprocessor
from .registry import MODELS

MODELS.register(HOGGenerator)

__all__ = [
    "MODELS",
    "BaseSelfSupervisor",
    "LinearNeck",
    "MIMHead",
    "MaskFeat",
    "MaskedSwin",
    "MaskedViT",
    "PixelReconstructionLoss",
    "SelfSupDataPreprocessor",
    "TimmBackbone",
    "TwoNormDataPreprocessor",
]
