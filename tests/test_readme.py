"""README's Python does what README says. Blocks that need a peer are those of docs/migrate.md."""

import inspect
import sys
from types import SimpleNamespace

import pytest
import torch

import ssl_fast
from ssl_fast.models import MODELS
from ssl_fast.models.maskfeat import maskfeat_config
from tests.pages import README, all_blocks, run

TINY = dict(depth=1, embed_dim=24, num_heads=2)
BLOCKS = all_blocks(README)


def block_with(text):
    (found,) = [block for block in BLOCKS if text in block.code]
    return found


def test_all_blocks_are_here():
    tested = ("pretrain(", "custom_imports", "enable()", "NTXentLoss", "MyMethod", "HOGGenerator")
    assert len(BLOCKS) == len({block_with(text).code for text in (*tested, "ops.hog(")})


def test_pretrain_takes_these_arguments(monkeypatch):
    takes = inspect.signature(ssl_fast.pretrain)
    monkeypatch.setattr(ssl_fast, "pretrain", lambda **options: takes.bind(**options).arguments)
    assert run(block_with("pretrain("))["result"]["batch_size"] == 256


def test_imports_of_a_config_exist():
    names = run(block_with("custom_imports"))["custom_imports"]["imports"]
    assert all(ssl_fast.__path__ and name.startswith("ssl_fast.integrations.") for name in names)


def test_switches_have_both_directions(monkeypatch):
    calls = []
    peer = SimpleNamespace(enable=lambda: calls.append("enable"))
    monkeypatch.setitem(sys.modules, "ssl_fast.integrations.lightly", peer)
    monkeypatch.setattr("ssl_fast.integrations.lightly", peer, raising=False)
    run(block_with("enable()"))
    assert calls == ["enable"]


def test_losses():
    names = run(block_with("NTXentLoss"))
    views = torch.randn(2, 4, 8)
    assert names["NTXentLoss"]()(*views).isfinite()
    assert names["ClipLoss"]()(*views, torch.tensor(10.0)).isfinite()


def test_own_method_trains():
    names = run(block_with("MyMethod"))
    config = maskfeat_config("vit_tiny_patch16_224", 224, 16, backbone_options=TINY)
    parts = {name: config[name] for name in ("backbone", "neck", "head", "target_generator")}
    pixels = dict(mean=[127.5], std=[50.0], keep_uint8=True)
    model = MODELS.build({"type": names["MyMethod"], "data_preprocessor": pixels, **parts})
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    losses = model(**model.data_preprocessor({"inputs": images}, True), mode="loss")
    losses["loss"].backward()
    assert all(p.grad is not None for p in model.neck.parameters())


def test_generator_of_targets():
    images = torch.randn(2, 3, 224, 224)
    assert run(block_with("HOGGenerator"), images=images)["targets"].shape == (2, 196, 108)


def test_functions_of_tensors():
    names = run(block_with("ops.hog("))
    assert names["features"].shape == (32, 3, 9, 28, 28)
    assert names["targets"].shape == (32, 78, 108)
    assert names["mask"].shape == (32, 14, 14)
    assert names["mask"].dtype == torch.bool
    assert set(names["mask"].sum(dim=(1, 2)).tolist()) == {78}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.heading)
def test_blocks_compile(block):
    compile(block.code, block.heading, "exec")
