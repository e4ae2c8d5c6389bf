"""Masks made by data-loading workers.

mmpretrain's SimMIMMaskGenerator stays as it is: what it takes is less than drawing a seed.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ... import host
from ._patches import patches
from .serving import calls_known

_PLACE = "mmpretrain.datasets.transforms.processing:BEiTMaskGenerator"


@patches.replaces(
    f"{_PLACE}.transform",
    "9d006bb1f2cd",
    gain="blocks are drawn by compiled code, and it always ends",
    relies_on={f"{_PLACE}._mask": ("2da9829f76e9",)},
)
def beit_transform(original: Any, self: Any, results: dict[str, Any]) -> dict[str, Any]:
    law = (
        (self.height, self.width),
        self.num_masking_patches,
        self.min_num_patches,
        self.max_num_patches,
        *map(math.exp, self.log_aspect_ratio),
    )
    if not calls_known(self, "_mask") or not _is_served(*law):
        return original(self, results)
    # Seed and id come from the generator that upstream draws from: whoever seeds workers rules.
    seed, index = np.random.randint(-(2**63), 2**63, size=2, dtype=np.int64)
    mask = host.block_mask(
        1,
        *law,
        seed=int(seed),
        sample_ids=np.array([index]),
        compat=None if patches.correct else "mmpretrain",
    )
    results.update({"mask": mask[0].astype(int)})
    return results


@functools.lru_cache(maxsize=64)
def _is_served(*law: Any) -> bool:
    """Whether our sampler takes this, and is there."""
    try:
        host.block_mask(0, *law, seed=0)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True
