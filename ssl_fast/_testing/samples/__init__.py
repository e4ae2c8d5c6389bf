"""Samples of every op: the calls that each backend must serve alike.

A new op adds one module here, named after its family, with functions decorated by `samples_of`.
"""

from __future__ import annotations

import importlib
import pkgutil

from .base import SAMPLES, OpSamples, Sample, samples_of

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["SAMPLES", "OpSamples", "Sample", "samples_of"]
