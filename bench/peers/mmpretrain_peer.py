"""mmpretrain's classes for the benchmark. An ImportError here means: not installed."""

from __future__ import annotations

import warnings

import torch


def _import_torchvision() -> None:
    """A torchvision built for CUDA dies at import under a CPU torch, for want of two schemas."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)
        import torchvision  # noqa: F401


_import_torchvision()
with warnings.catch_warnings():  # mmcv-lite says at length which of its ops it lacks
    warnings.simplefilter("ignore")
    from mmpretrain.models.selfsup.maskfeat import HOGGenerator


def hog_generator(nbins: int, pool: int, gaussian_window: int) -> torch.nn.Module:
    """MaskFeat's target generator: [B, 3, 224, 224] float32 to [B, 196, 108]."""
    return HOGGenerator(nbins=nbins, pool=pool, gaussian_window=gaussian_window)
