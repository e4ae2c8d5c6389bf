"""The integration as a whole: what is replaced, in which version, and that all of it goes back."""

import subprocess
import sys

import pytest

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")

pytestmark = pytest.mark.smoke


def test_the_import_replaces_what_it_knows():
    script = "import ssl_fast.integrations.mmpretrain"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    assert f"functions in mmpretrain {mmpretrain.__version__}" in done.stdout
    assert "  left " not in done.stdout
