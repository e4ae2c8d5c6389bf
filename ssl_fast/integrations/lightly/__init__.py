"""lightly's losses, masks and token functions, made faster: by import, or in lightly itself.

    from ssl_fast.integrations.lightly import NTXentLoss, random_token_mask  # needs no lightly

    from ssl_fast.integrations import lightly                                # or in lightly itself
    lightly.enable()
    with lightly.disable():
        ...

With `enable()` results, shapes, dtypes and state stay lightly's, and classes stay the same
objects, imported before or after. `enable(correct=True)` gives `BarlowTwinsLoss` with
`gather_distributed` the statistics of the global batch. Functions that other versions changed are
left alone. Checked against lightly 1.5 and 1.6.
"""

import contextlib

from ..._compat import import_torchvision
from ..patching import Restore
from ._patches import patches
from .losses import BarlowTwinsLoss, NTXentLoss, SwaVLoss
from .tokens import (
    get_at_index,
    mask_at_index,
    normalize_mean_var,
    patchify,
    prepend_class_token,
    random_block_mask,
    random_token_mask,
    repeat_token,
    set_at_index,
)

disable = patches.disable
report = patches.report


def enable(*, correct: bool = False, quiet: bool = False) -> Restore:
    """Replaces the functions of lightly that are known; see `Patches.enable`."""
    with contextlib.suppress(ImportError):  # lightly's import fails where this does
        import_torchvision()
    return patches.enable(correct=correct, quiet=quiet)


__all__ = [
    "BarlowTwinsLoss",
    "NTXentLoss",
    "SwaVLoss",
    "disable",
    "enable",
    "get_at_index",
    "mask_at_index",
    "normalize_mean_var",
    "patchify",
    "prepend_class_token",
    "random_block_mask",
    "random_token_mask",
    "repeat_token",
    "report",
    "set_at_index",
]
