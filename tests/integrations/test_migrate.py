"""docs/migrate.md without peers: its own blocks, timm's, and that each other one is for a peer."""

import torch

from ssl_fast._compat import import_timm
from ssl_fast.training.export import export_backbone
from tests.pages import all_blocks, blocks, run

timm = import_timm()
PEERS = [{"mmpretrain"}, {"mmpretrain", "config"}, {"lightly"}, {"open_clip"}, {"timm"}, set()]


def test_blocks_without_peers():
    names = [run(block) for block in blocks()]
    views = torch.randn(2, 4, 3, 8, 8)
    model = next(found["model"] for found in names if "model" in found)
    losses = model(list(views), mode="loss")
    assert losses["loss"].isfinite()
    values = [found["loss"] for found in names if "loss" in found]
    assert len(values) == 2
    assert all(value.isfinite() for value in values)


def test_timms_block(tmp_path, monkeypatch):
    options = {"img_size": 32, "patch_size": 8, "depth": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)
    info = {"mean": [120.0] * 3, "std": [60.0] * 3, "options": options}
    export_backbone(tmp_path / "export", model, {"architecture": "vit_tiny_patch16_224", **info})
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("timm")
    backbone = run(block)["backbone"].eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(backbone.forward_features(images), model.eval().forward_features(images))
    assert backbone(images).shape == (2, 10)


def test_every_block_is_run_somewhere():
    found = [set(block.needs) for block in all_blocks()]
    assert all(needs in PEERS for needs in found)
    assert all(needs in found for needs in PEERS)
