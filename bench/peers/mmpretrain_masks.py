"""mmpretrain's transforms that make masks. An ImportError here means: not installed."""

from __future__ import annotations

import warnings

from ssl_fast._compat import import_torchvision

import_torchvision()
with warnings.catch_warnings():  # mmcv-lite says at length which of its ops it lacks
    warnings.simplefilter("ignore")
    from mmpretrain.datasets.transforms import BEiTMaskGenerator, SimMIMMaskGenerator

__all__ = ["BEiTMaskGenerator", "SimMIMMaskGenerator"]
