"""Checkpoints: what is unwrapped, what is skipped and said, what is refused."""

import logging
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from ssl_fast.models.loading import load_pretrained, read_checkpoint


def save(path, content):
    torch.save(content, path)
    return path


def weights():
    return {"weight": torch.eye(2), "bias": torch.ones(2)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "meta": {"epoch": 3}},
        lambda state: {"state_dict": {f"module.{name}": v for name, v in state.items()}},
    ],
)
def test_a_state_dict_is_unwrapped(tmp_path, wrap):
    linear = nn.Linear(2, 2)
    loaded = load_pretrained(linear, save(tmp_path / "a.pth", wrap(weights())))
    assert torch.equal(linear.weight, torch.eye(2))
    assert (loaded.missing, loaded.unexpected, loaded.mismatched) == ([], [], [])


def test_only_a_leading_module_is_stripped(tmp_path):
    state = {"module.module.a": torch.ones(1), "b.module.c": torch.ones(1)}
    assert set(read_checkpoint(save(tmp_path / "a.pth", state))) == {"module.a", "b.module.c"}


def test_what_does_not_fit_is_logged_and_skipped(tmp_path, caplog):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = model[1].weight.clone()
    state = {
        "0.weight": torch.eye(2),
        "1.weight": torch.ones(2, 3),
        "2.running_mean": torch.ones(3),
        "head.weight": torch.ones(1),
    }
    with caplog.at_level(logging.WARNING, "ssl_fast"):
        loaded = load_pretrained(model, save(tmp_path / "a.pth", state))
    assert torch.equal(model[0].weight, torch.eye(2))
    assert torch.equal(model[1].weight, before)
    assert model[2].running_mean.eq(1).all()
    assert loaded.missing == ["0.bias", "1.bias", "2.weight", "2.bias", "2.running_var"]
    assert loaded.unexpected == ["head.weight"]
    assert loaded.mismatched == ["1.weight"]
    lacks, no_place, shapes = caplog.messages
    assert "a.pth lacks weights of Sequential: 0.bias, 1.bias" in lacks
    assert "Sequential has no place for weights of" in no_place
    assert "head.weight" in no_place
    assert "1.weight (copying a param with shape torch.Size([2, 3])" in shapes
    assert "torch.Size([3, 2])" in shapes


def test_long_lists_are_cut(tmp_path, caplog):
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(8)))
    with caplog.at_level(logging.WARNING, "ssl_fast"):
        load_pretrained(model, save(tmp_path / "a.pth", {"0.bias": torch.ones(1)}))
    assert caplog.messages[0].endswith("and 5 more")


def test_hooks_that_resize_or_rename_are_heeded(tmp_path):
    class Resizes(nn.Linear):
        def _load_from_state_dict(self, state, prefix, *args):
            state[f"{prefix}weight"] = state.pop(f"{prefix}old")[:2]
            super()._load_from_state_dict(state, prefix, *args)

    linear = Resizes(2, 2)
    state = {"old": torch.full((3, 2), 4.0), "bias": torch.ones(2)}
    loaded = load_pretrained(linear, save(tmp_path / "a.pth", state))
    assert linear.weight.eq(4).all()
    assert loaded.mismatched == []


@pytest.mark.parametrize("prefix", ["backbone.", "backbone"])
def test_a_prefix_selects(tmp_path, prefix):
    state = {
        "backbone.weight": torch.eye(2),
        "backbones.bias": torch.ones(2),
        "bias": torch.ones(2),
    }
    path = save(tmp_path / "a.pth", state)
    assert list(read_checkpoint(path, prefix)) == ["weight"]
    with pytest.raises(ValueError, match=r"no weights that begin with 'neck.'; it has backbone.w"):
        read_checkpoint(path, "neck")


def test_a_url_is_downloaded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    source = save(tmp_path / "a.pth", weights())
    url = source.as_uri()
    assert torch.equal(read_checkpoint(url)["weight"], torch.eye(2))
    source.unlink()
    assert torch.equal(read_checkpoint(url)["weight"], torch.eye(2))
    with pytest.raises(OSError, match=r"checkpoint file://.*b\.pth cannot be read"):
        read_checkpoint((tmp_path / "b.pth").as_uri())


def test_tensors_come_to_the_cpu_and_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "a.pth", weights())
    assert read_checkpoint("~/a.pth")["weight"].device.type == "cpu"


def test_missing_files_and_other_schemes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"b\.pth is not there, or is not a file"):
        read_checkpoint(tmp_path / "b.pth")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_checkpoint(tmp_path)
    with pytest.raises(
        ValueError, match="torchvision://resnet50; accepted are a local path or a U"
    ):
        read_checkpoint("torchvision://resnet50")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "random"])
def test_damaged_files_are_named(tmp_path, damage):
    path = save(tmp_path / "a.pth", weights())
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "text": b"<html>not found</html>",
            "random": bytes(np.random.default_rng(0).integers(0, 256, 500, dtype=np.uint8)),
        }[damage]
    )
    with pytest.raises(ValueError, match=r"a\.pth cannot be read: it is damaged"):
        read_checkpoint(path)


class Opaque:
    pass


def test_what_is_refused_is_named(tmp_path):
    path = save(tmp_path / "a.pth", {"state_dict": weights(), "args": Opaque()})
    with pytest.raises(
        ValueError, match=rf"a\.pth holds a {__name__}\.Opaque, which is not loaded"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "inside"),
    [({"model": weights(), "epoch": 3}, "model, epoch"), ({}, "nothing"), ([1], "list")],
)
def test_a_checkpoint_without_weights(tmp_path, content, inside):
    path = save(tmp_path / "a.pth", content)
    with pytest.raises(ValueError, match=f"has no weights.*it has {inside}"):
        read_checkpoint(path)


class HistoryBuffer:
    """As mmengine's: arrays, and its own methods in what is pickled."""

    def __init__(self):
        self.values = np.array([1.0, 2.0])
        self.counts = np.array([1, 2])

    def mean(self):
        return self.values.mean()

    def __getstate__(self):
        return {**vars(self), "statistics_methods": {"mean": HistoryBuffer.mean}}


def test_a_checkpoint_of_mmengine_is_read_without_mmengine(tmp_path, monkeypatch):
    name = "mmengine.logging.history_buffer"
    module = types.ModuleType(name)
    module.HistoryBuffer = HistoryBuffer
    monkeypatch.setattr(HistoryBuffer, "__module__", name)
    for part in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, part, module)
    log = {"log_scalars": {"loss": HistoryBuffer()}, "best": np.float64(0.5)}
    path = save(tmp_path / "a.pth", {"state_dict": weights(), "message_hub": log})
    for part in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, part, None)
    assert torch.equal(read_checkpoint(path)["weight"], torch.eye(2))
    # And nothing stays allowed.
    assert HistoryBuffer not in torch.serialization.get_safe_globals()
    assert not any(isinstance(each, tuple) for each in torch.serialization.get_safe_globals())
