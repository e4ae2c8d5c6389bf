"""Imports torchvision, and timm which needs it, also where torch has no CUDA.

Package indexes offer torchvision built for CUDA. Beside a torch for the CPU its compiled library
does not load, and its import fails because it describes two operators of that library, `nms` and
`qnms`. With only their schemas declared the import succeeds, and all that is plain torch works:
models, datasets, transforms. The operators themselves then raise when they are called.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

INSTALL = 'pip install "ssl_fast[train]"'
_ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# Schemas last as long as their library.
_schemas: torch.library.Library | None = None


def import_torchvision() -> ModuleType:
    """torchvision, with the schemas that it lacks declared first if it cannot be imported alone.

    Raises:
        ImportError: if it is missing or fails for another reason, with what to install.
    """
    global _schemas
    try:
        return _import("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    if _schemas is None:
        _schemas = torch.library.Library("torchvision", "FRAGMENT")
        _schemas.define(f"nms{_ARGUMENTS}")
        _schemas.define(f"qnms{_ARGUMENTS}")
    return _import("torchvision")


def import_timm() -> ModuleType:
    """timm; raises as `import_torchvision`."""
    import_torchvision()
    return _import("timm")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        reason = "is not installed" if missing else f"cannot be imported ({error})"
        raise ImportError(f"{name} {reason}; install it with {INSTALL}") from error
