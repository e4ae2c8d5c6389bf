"""docs/migrate.md where mmpretrain is installed."""

import pytest

from tests.integrations.peers import require

require("mmpretrain")
import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmpretrain.registry import MODELS  # noqa: E402
from mmpretrain.utils import register_all_modules  # noqa: E402

from ssl_fast.integrations import mmpretrain as integration  # noqa: E402
from tests.pages import blocks, run  # noqa: E402

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("block", blocks("mmpretrain", "config"), ids=lambda block: block.heading)
def test_configs(block):
    register_all_modules()
    config = Config.fromstring(block.code, ".py")
    assert config.custom_imports.imports == ["ssl_fast.integrations.mmpretrain"]
    model = MODELS.build(config.model)
    losses = model([torch.randn(4, 3, 32, 32) for _ in range(2)], [], mode="loss")
    assert losses["loss"].isfinite()


def test_blocks():
    with integration.disable():
        for block in blocks("mmpretrain"):
            run(block)
