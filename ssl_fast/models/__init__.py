"""Self-supervised models, built from modules or from config dicts.

torch is enough for the import; only a backbone of another library needs that library.
"""

from ..nn import HOGGenerator
from .backbones import TimmBackbone
from .barlowtwins import BarlowTwins
from .base import BaseSelfSupervisor
from .byol import BYOL
from .densecl import DenseCL
from .heads import (
    ContrastiveHead,
    CosineSimilarityLoss,
    LatentCrossCorrelationHead,
    LatentPredictHead,
)
from .mae import MAE, MAEPretrainDecoder, MAEPretrainHead
from .masked import MaskedSwin, MaskedViT, VisibleViT
from .maskfeat import MaskFeat
from .moco import MoCo
from .mocov3 import MoCoV3, MoCoV3Head, MoCoV3ViT
from .momentum import MomentumEncoder, StepCounter
from .necks import DenseCLNeck, MoCoV2Neck, NonLinearNeck, SwAVNeck
from .parts import LinearNeck, MIMHead, PixelReconstructionLoss
from .preprocess import SelfSupDataPreprocessor, TwoNormDataPreprocessor
from .registry import MODELS
from .simclr import SimCLR
from .simmim import SimMIM, SimMIMHead, SimMIMLinearDecoder
from .simsiam import SimSiam
from .swav import SwAV, SwAVHead

MODELS.register(HOGGenerator)

__all__ = [
    "BYOL",
    "MAE",
    "MODELS",
    "BarlowTwins",
    "BaseSelfSupervisor",
    "ContrastiveHead",
    "CosineSimilarityLoss",
    "DenseCL",
    "DenseCLNeck",
    "LatentCrossCorrelationHead",
    "LatentPredictHead",
    "LinearNeck",
    "MAEPretrainDecoder",
    "MAEPretrainHead",
    "MIMHead",
    "MaskFeat",
    "MaskedSwin",
    "MaskedViT",
    "MoCo",
    "MoCoV2Neck",
    "MoCoV3",
    "MoCoV3Head",
    "MoCoV3ViT",
    "MomentumEncoder",
    "NonLinearNeck",
    "PixelReconstructionLoss",
    "SelfSupDataPreprocessor",
    "SimCLR",
    "SimMIM",
    "SimMIMHead",
    "SimMIMLinearDecoder",
    "SimSiam",
    "StepCounter",
    "SwAV",
    "SwAVHead",
    "SwAVNeck",
    "TimmBackbone",
    "TwoNormDataPreprocessor",
    "VisibleViT",
]
