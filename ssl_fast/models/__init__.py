"""Self-supervised models, built from modules or from config dicts.

torch is enough for the import; only a backbone of another library needs that library.
"""

from ..nn import HOGGenerator
from .backbones import TimmBackbone
from .base import BaseSelfSupervisor
from .mae import MAE, MAEPretrainDecoder, MAEPretrainHead
from .masked import MaskedSwin, MaskedViT, VisibleViT
from .maskfeat import MaskFeat
from .parts import LinearNeck, MIMHead, PixelReconstructionLoss
from .preprocess import SelfSupDataPreprocessor, TwoNormDataPreprocessor
from .registry import MODELS
from .simmim import SimMIM, SimMIMHead, SimMIMLinearDecoder

MODELS.register(HOGGenerator)

__all__ = [
    "MAE",
    "MODELS",
    "BaseSelfSupervisor",
    "LinearNeck",
    "MAEPretrainDecoder",
    "MAEPretrainHead",
    "MIMHead",
    "MaskFeat",
    "MaskedSwin",
    "MaskedViT",
    "PixelReconstructionLoss",
    "SelfSupDataPreprocessor",
    "SimMIM",
    "SimMIMHead",
    "SimMIMLinearDecoder",
    "TimmBackbone",
    "TwoNormDataPreprocessor",
    "VisibleViT",
]
