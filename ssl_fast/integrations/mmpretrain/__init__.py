"""mmpretrain's own classes with our hot paths; in force from this import on.

    custom_imports = dict(imports=["ssl_fast.integrations.mmpretrain"])  # in a config

    from ssl_fast.integrations import mmpretrain                         # in code
    mmpretrain.disable()
    mmpretrain.enable(correct=True)
    with mmpretrain.disable():
        ...

Shapes, dtypes, devices, state-dict keys, attributes and numbers stay mmpretrain's, its quirks too,
and so do the masks that a seed gives (those of BEiTMaskGenerator keep their law alone).
`enable(correct=True)` gives the right distributed gradients and mask laws instead. Functions that
other versions changed are left alone.
"""

from ..._compat import import_torchvision
from ._patches import patches

import_torchvision()  # mmpretrain's import fails where this does

enable = patches.enable
disable = patches.disable
report = patches.report

from . import decoders, generators, hivit, hog, masking, reconstruction  # noqa: E402, F401

enable()

__all__ = ["disable", "enable", "report"]
