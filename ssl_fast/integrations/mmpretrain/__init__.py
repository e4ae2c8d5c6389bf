"""mmpretrain's own classes with our hot paths; in force from this import on.

    custom_imports = dict(imports=["ssl_fast.integrations.mmpretrain"])  # in a config

    from ssl_fast.integrations import mmpretrain                         # in code
    mmpretrain.disable()
    mmpretrain.enable(correct=True)
    with mmpretrain.disable():
        ...

Shapes, dtypes, devices, state-dict keys, attributes and numbers stay mmpretrain's, its quirks too
(masks are drawn by the same law, from other random numbers). `enable(correct=True)` gives the right
distributed gradients and mask laws instead. Functions that other versions changed are left alone.

Our own classes are registered under the scope `ssl_fast`; see `registry`.
"""

from ..._compat import import_torchvision
from . import contrastive, cross_correlation, heads, lars, momentum, sinkhorn  # noqa: F401
from ._patches import patches

import_torchvision()  # mmpretrain's import fails where this does

enable = patches.enable
disable = patches.disable
report = patches.report

from . import decoders, generators, hivit, hog, masking, reconstruction  # noqa: E402, F401

enable()

from . import registry  # noqa: E402  # of mmengine, which is certain to be there from here on

__all__ = ["disable", "enable", "registry", "report"]
