"""The one collection of what is replaced in mmpretrain."""

from __future__ import annotations

from ..patching import Patches

patches = Patches(
    "mmpretrain",
    distributions=("mmpretrain", "onedl-mmpretrain"),
    install='pip install mmpretrain==1.2.0 mmcv-lite==2.2.0 mmengine==0.11.0rc3 "transformers<5"',
)
