"""docs/migrate.md where open_clip is installed."""

import pytest

from tests.integrations.peers import require

require("open_clip")
from ssl_fast.integrations import open_clip as integration  # noqa: E402
from tests.pages import blocks, run  # noqa: E402

pytestmark = pytest.mark.smoke


def test_blocks():
    with integration.disable():
        for block in blocks("open_clip"):
            assert run(block)["loss"].isfinite()
            assert "  replaced ClipLoss.forward" in integration.report()
