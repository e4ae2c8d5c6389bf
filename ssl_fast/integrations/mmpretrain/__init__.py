"""mmpretrain's own classes with our hot paths; in force from this import on.

    custom_imports = dict(imports=["ssl_fast.integrations.mmpretrain"])  # in a config

    from ssl_fast.integrations import mmpretrain                         # in code
    mmpretrain.disable()
    mmpretrain.enable(correct=True)
    with mmpretrain.disable():
        ...

Shapes, dtypes, devices, state-dict keys, attributes and numbers stay mmpretrain's, its quirks too.
Masks that models draw are its own after the same `torch.manual_seed`; those made by the data loader
follow its law from other random numbers. `enable(correct=True)` gives the right distributed
gradients and mask laws instead. Functions that other versions changed are left alone.

Our own classes are registered under the scope `ssl_fast`; see `registry`.
"""

from ..._compat import import_torchvision
from . import (  # noqa: F401  # each adds what it replaces
    contrastive,
    cross_correlation,
    decoders,
    generators,
    heads,
    hivit,
    hog,
    lars,
    masking,
    momentum,
    reconstruction,
    sinkhorn,
)
from ._patches import patches

enable = patches.enable
disable = patches.disable
report = patches.report

import_torchvision()  # mmpretrain's import fails where this does
enable()

from . import registry  # noqa: E402  # of mmengine, which is certain to be there from here on

__all__ = ["disable", "enable", "registry", "report"]
