"""Exported backbones: the files, the printed snippet run as it is, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ssl_fast._compat import import_timm, import_torchvision
from ssl_fast.training.export import export_backbone, load_backbone, snippet

timm = import_timm()
OPTIONS = {"img_size": 32, "patch_size": 8, "depth": 2}
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
INFO = {
    "architecture": "vit_tiny_patch16_224",
    "options": OPTIONS,
    "mean": MEAN,
    "std": STD,
    "training": {"method": "maskfeat", "steps": 100},
}


def build(name="vit_tiny_patch16_224", **options):
    """A timm model in training mode with weights unlike those that timm starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = timm.create_model(name, num_classes=0, **options)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.data += 0.02 * torch.rand_like(tensor)
    return model


def picture(path, height, width, mode="RGB"):
    """Saves an image in `mode` and returns its pixels as a reader sees them, [H, W, C]."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, quality=95)
    return np.asarray(Image.open(path)).reshape(height, width, -1)


def expected_features(model, pixels, mean, std):
    batch = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
    with torch.inference_mode():
        return model.eval()((batch - mean) / std)


def run_snippet(folder, monkeypatch, directory):
    monkeypatch.chdir(directory)
    names = {}
    exec(compile(snippet(folder), "snippet", "exec"), names)
    assert not names["backbone"].training
    return names["features"]


@pytest.mark.parametrize(
    ("name", "options", "channels", "size"),
    [
        ("vit_tiny_patch16_224", OPTIONS, 3, (32, 32)),
        ("vit_tiny_patch16_224", {**OPTIONS, "img_size": (16, 40), "in_chans": 1}, 1, (16, 40)),
        ("vit_tiny_patch16_224", {**OPTIONS, "global_pool": "avg", "qkv_bias": False}, 3, (32, 32)),
        ("resnet18", {}, 3, (64, 64)),  # buffers, some of them int64
    ],
)
def test_snippet_gives_the_models_features(tmp_path, monkeypatch, name, options, channels, size):
    model = build(name, **options)
    mean, std = MEAN[:channels], STD[:channels]
    info = {"architecture": name, "options": options, "mean": mean, "std": std, "image_size": size}
    export_backbone(tmp_path / "export", model, info)
    pixels = picture(tmp_path / "image.jpg", *size, mode="L" if channels == 1 else "RGB")
    expected = expected_features(model, pixels, mean, std)
    found = run_snippet(tmp_path / "export", monkeypatch, tmp_path)
    assert torch.equal(found, expected)
    assert f"[1, {expected.shape[1]}]" in snippet(tmp_path / "export")


def test_snippet_runs_in_a_process_of_its_own(tmp_path):
    model = build(**OPTIONS)
    export_backbone(tmp_path / "it's", model, INFO)
    pixels = picture(tmp_path / "image.jpg", 32, 32)
    script = snippet(tmp_path / "it's") + "\nnp.save('features.npy', features.numpy())\n"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    found = torch.from_numpy(np.load(tmp_path / "features.npy"))
    assert torch.equal(found, expected_features(model, pixels, MEAN, STD))


def test_snippet_needs_timm_alone_where_torchvision_fits(tmp_path, monkeypatch):
    export_backbone(tmp_path, build(**OPTIONS), INFO)
    monkeypatch.setattr(import_torchvision().extension, "_has_ops", lambda: True)
    assert "ssl_fast" not in snippet(tmp_path).replace(str(tmp_path), "")
    monkeypatch.setattr(import_torchvision().extension, "_has_ops", lambda: False)
    assert snippet(tmp_path).startswith("from ssl_fast._compat import import_timm\n\nimport_timm()")


def test_files(tmp_path):
    path = export_backbone(tmp_path / "new" / "export", build(**OPTIONS), INFO)
    assert path == tmp_path / "new" / "export" / "backbone.safetensors"
    assert sorted(p.name for p in path.parent.iterdir()) == ["backbone.json", path.name]
    config = json.loads((path.parent / "backbone.json").read_text())
    assert {key: config[key] for key in INFO} == INFO
    assert config["image_size"] == [32, 32]
    assert config["num_features"] == 192
    assert config["versions"]["timm"] == timm.__version__
    assert config["versions"]["torch"] == torch.__version__


def test_load_backbone_is_the_model(tmp_path):
    model = build(**OPTIONS)
    export_backbone(tmp_path, model, INFO)
    loaded = load_backbone(tmp_path)
    assert not loaded.training
    weights = model.state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(loaded.state_dict()[name], weights[name]) for name in weights)


def test_weights_are_float32_contiguous_and_tied_ones_are_kept(tmp_path):
    model = build(**OPTIONS).bfloat16()
    model.blocks[1].norm1.weight = model.blocks[0].norm1.weight
    model.patch_embed.proj.weight.data = model.patch_embed.proj.weight.data.to(
        memory_format=torch.channels_last
    )
    weights = load_file(export_backbone(tmp_path, model, INFO))
    for name, tensor in model.state_dict().items():
        assert weights[name].dtype == torch.float32
        assert torch.equal(weights[name], tensor.float())
    assert next(model.parameters()).dtype == torch.bfloat16
    load_backbone(tmp_path)


def test_loading_is_strict(tmp_path):
    path = export_backbone(tmp_path, build(**OPTIONS), INFO)
    weights = load_file(path)
    weights.pop("pos_embed")
    save_file(weights, path)
    with pytest.raises(RuntimeError, match="pos_embed"):
        load_backbone(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"backbone\.safetensors is not there"):
        load_backbone(tmp_path)


def test_leaves_random_state_and_mode(tmp_path):
    model = build(**OPTIONS)
    state = torch.get_rng_state()
    export_backbone(tmp_path, model, INFO)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"options": {**OPTIONS, "depth": 3}},
            ValueError,
            r"not describe this model(.|\n)*blocks.2",
        ),
        ({"options": {**OPTIONS, "patch_size": 4}}, ValueError, "not describe this model"),
        ({"image_size": 48}, ValueError, "not describe this model"),
        ({"options": {**OPTIONS, "num_classes": 5}}, ValueError, "has num_classes"),
        ({"architecture": None}, ValueError, "lacks architecture"),
        ({"mean": None, "std": []}, ValueError, "lacks mean, std"),
        ({"options": {}, "architecture": "resnet18"}, ValueError, "lacks image_size"),
        ({"std": [0.229, 0.224, 0.225]}, ValueError, "0 to 255"),
        ({"std": [58.0]}, ValueError, "3 mean and 1 std"),
        ({"mean": [1.0] * 2, "std": [1.0] * 2}, ValueError, "1 or 3"),
        ({"when": torch.float32}, TypeError, "JSON"),
    ],
)
def test_refuses_what_would_not_load_and_writes_nothing(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        export_backbone(tmp_path / "export", build(**OPTIONS), {**INFO, **changes})
    assert not (tmp_path / "export").exists()


def test_refuses_a_model_with_a_classifier(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4, **OPTIONS)
    with pytest.raises(ValueError, match=r"head\.weight"):
        export_backbone(tmp_path, model, INFO)
