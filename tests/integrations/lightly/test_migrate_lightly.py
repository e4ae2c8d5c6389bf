"""docs/migrate.md where lightly is installed."""

import pytest

from tests.integrations.peers import require

require("lightly")
from ssl_fast.integrations import lightly as integration  # noqa: E402
from tests.pages import blocks, run  # noqa: E402

pytestmark = pytest.mark.smoke


def test_blocks():
    with integration.disable():
        for block in blocks("lightly"):
            assert run(block)["loss"].isfinite()
            assert "  replaced NTXentLoss.forward" in integration.report()
