"""The libraries that we stand in for: imported, or skipped with the command that installs them."""

from __future__ import annotations

import importlib
import os
import warnings
from types import ModuleType

import pytest

from ssl_fast._compat import import_torchvision


def require(library: str) -> ModuleType:
    """The library; without it the module's tests are skipped, or fail if peers are required.

    For use at the top of a test module, before anything of the library is imported.
    """
    try:
        import_torchvision()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(library)
    except ImportError as error:
        reason = f"{library}: {error}; `make test-integrations` installs and tests it"
        if os.environ.get("SSL_FAST_REQUIRE_PEERS"):
            raise RuntimeError(reason) from error
        pytest.skip(reason, allow_module_level=True)
