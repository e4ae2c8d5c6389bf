"""Batches: the same pixels from any number of workers; what becomes of broken files."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from ssl_fast.training.data import (
    Augmentation,
    DataError,
    EpochSampler,
    EvaluationDataset,
    LoaderError,
    MultiView,
    MultiViewDataset,
    PretrainDataset,
    collate,
    evaluation_loader,
    loader,
    open_source,
)
from ssl_fast.training.views import SWAV

SIZE = 32
BAD = (3, 4, 11)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 images in two class folders, of which three cannot be read."""
    for i in range(20):
        file = tmp_path / f"class{i // 10}" / f"{i:02}.{'jpg' if i % 2 else 'png'}"
        file.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40 + i, 90, 3), np.uint8)
        Image.fromarray(pixels).save(file)
        if i in BAD:
            file.write_bytes(b"" if i == 3 else file.read_bytes()[:200])
    return tmp_path


def views(folder: Path | str, **options: Any) -> PretrainDataset:
    source = open_source(folder)
    arguments = {
        "image_size": SIZE,
        "augmentation": source.default_augmentation or Augmentation(),
        "seed": 5,
    }
    indices = options.pop("indices", np.arange(len(source)))
    return PretrainDataset(source, indices, **{**arguments, **options})


def sampler(dataset: PretrainDataset, start: int = 0) -> EpochSampler:
    return EpochSampler(len(dataset), 8, seed=5, start_step=start, total_steps=6)


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    tensors = all(torch.equal(left[name], right[name]) for name in ("inputs", "sample_ids"))
    return tensors and left["unreadable"] == right["unreadable"]


def test_batches_do_not_depend_on_workers_or_start(folder: Path) -> None:
    dataset = views(folder)
    alone = list(loader(dataset, sampler(dataset), 0))
    assert len(alone) == 6
    assert alone[0]["inputs"].shape == (8, 3, SIZE, SIZE)
    assert alone[0]["inputs"].dtype == torch.uint8
    assert alone[0]["sample_ids"].dtype == torch.int64
    assert sum(len(batch["unreadable"]) for batch in alone) > 0
    for workers in (1, 2):
        found = list(loader(dataset, sampler(dataset), workers))
        assert all(map(same, found, alone))
    resumed = list(loader(dataset, sampler(dataset, start=4), 0))
    assert len(resumed) == 2
    assert all(map(same, resumed, alone[4:]))


def test_spawned_workers(folder: Path) -> None:
    dataset = views(folder)
    alone = list(loader(dataset, sampler(dataset, start=5), 0))
    spawned = list(loader(dataset, sampler(dataset, start=5), 1, start_method="spawn"))
    assert same(spawned[0], alone[0])


def test_unreadable_images_are_replaced_and_reported(folder: Path) -> None:
    dataset = views(folder)
    item = dataset[0, 3]
    assert item["index"] == 5
    assert [index for index, _ in item["unreadable"]] == [3, 4]
    assert item["unreadable"][0][1] == "the file is empty"
    assert dataset.source.name(3) == "class0/03.jpg"
    last = views(folder, indices=np.array([7, 9, 11]))
    assert last[0, 2]["index"] == 7  # from the end to the beginning
    batch = collate([dataset[0, 3], dataset[0, 0], dataset[0, 11]])
    assert batch["sample_ids"].tolist() == [5, 0, 12]
    assert [index for index, _ in batch["unreadable"]] == [3, 4, 11]


def test_views_are_keyed_by_epoch_and_sample(folder: Path) -> None:
    dataset = views(folder)
    assert torch.equal(dataset[1, 0]["image"], dataset[1, 0]["image"])
    assert not torch.equal(dataset[0, 0]["image"], dataset[1, 0]["image"])
    # A sample is known by its place in the source, wherever a part of the source has it.
    part = views(folder, indices=np.array([9, 6]))
    assert torch.equal(part[2, 1]["image"], dataset[2, 6]["image"])


@pytest.mark.parametrize("workers", [0, 1])
def test_no_readable_image_is_an_error_of_one_line(folder: Path, workers: int) -> None:
    dataset = views(folder, indices=np.array(BAD))
    with pytest.raises(DataError) as caught:
        list(loader(dataset, sampler(dataset), workers))
    assert str(caught.value).startswith("none of the 3 images can be read (20 images in 2 classes")
    assert "class" in str(caught.value)
    assert "\n" not in str(caught.value)


class Probe(Dataset[Any]):
    """What a worker is like; one that is asked for -1 dies, for -2 raises."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, bool]:
        if key[1] == -1:
            os._exit(3)
        if key[1] == -2:
            raise KeyError("the text of the error")
        ignores = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        return torch.get_num_threads(), ignores


class Keys(torch.utils.data.Sampler[Any]):
    def __init__(self, *positions: int) -> None:
        self.positions = positions

    def __iter__(self) -> Any:
        return iter([[(0, position)] for position in self.positions])


def several(folder: Path) -> MultiViewDataset:
    source = open_source(folder)
    return MultiViewDataset(source, np.arange(len(source)), MultiView(SWAV, SIZE, 8), seed=5)


def test_several_views_do_not_depend_on_workers_or_start(folder: Path) -> None:
    dataset = several(folder)
    alone = list(loader(dataset, sampler(dataset), 0))
    shapes = [tuple(view.shape) for view in alone[0]["inputs"]]
    assert shapes == [(8, 3, SIZE, SIZE)] * 2 + [(8, 3, 16, 16)] * 6
    # An array, so that it stays on the CPU when a batch goes to the device.
    assert isinstance(alone[0]["parameters"], np.ndarray)
    assert alone[0]["parameters"].shape == (8, 8, 9)
    assert alone[0]["parameters"].dtype == np.float32
    working = list(loader(dataset, sampler(dataset), 2))
    resumed = list(loader(dataset, sampler(dataset, start=4), 0))
    for found, expected in ((working, alone), (resumed, alone[4:])):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert all(map(torch.equal, one["inputs"], other["inputs"]))
            assert (one["parameters"] == other["parameters"]).all()
            assert torch.equal(one["sample_ids"], other["sample_ids"])
            assert one["unreadable"] == other["unreadable"]


def test_several_views_of_what_replaces_an_unreadable_image(folder: Path) -> None:
    item = several(folder)[0, 3]
    assert item["index"] == 5
    assert [index for index, _ in item["unreadable"]] == [3, 4]
    assert len(item["views"]) == 8
    assert not torch.equal(item["views"][0], item["views"][1])


def test_an_image_is_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = several(folder)
    image, calls = dataset.source.image, []
    monkeypatch.setattr(dataset.source, "image", lambda *a: (calls.append(a), image(*a))[1])
    dataset[0, 0]
    assert calls == [(0, dataset.views.decode_size())]


def test_workers_have_one_thread_and_leave_ctrl_c_to_the_main_process() -> None:
    assert list(loader(Probe(), Keys(0), 1, collate=list)) == [[(1, True)]]


def test_workers_that_fail_say_so() -> None:
    with pytest.raises(LoaderError, match="process that loads images died: most often memory"):
        list(loader(Probe(), Keys(0, -1), 1, collate=list))
    with pytest.raises(KeyError, match="the text of the error"):
        list(loader(Probe(), Keys(-2), 1, collate=list))
    with pytest.raises(ValueError, match="workers is -1"):
        loader(Probe(), Keys(0), -1)


def test_evaluation_leaves_out_what_is_unreadable(folder: Path) -> None:
    source = open_source(folder)
    dataset = EvaluationDataset(source, np.arange(20), SIZE)
    first = list(evaluation_loader(dataset, 12, workers=0))
    second = list(evaluation_loader(dataset, 12, workers=1))
    assert [batch[0].shape for batch in first] == [(9, 3, SIZE, SIZE), (8, 3, SIZE, SIZE)]
    assert [batch[2] for batch in first] == [3, 0]
    assert torch.cat([batch[1] for batch in first]).tolist() == [0] * 8 + [1] * 9
    for left, right in zip(first, second, strict=True):
        assert torch.equal(left[0], right[0])
        assert torch.equal(left[1], right[1])
    ((images, labels, left_out),) = evaluation_loader(
        EvaluationDataset(source, np.array(BAD), SIZE), 12, workers=0
    )
    assert (images.shape, labels.shape, left_out) == ((0, 3, SIZE, SIZE), (0,), 3)


def test_evaluation_without_labels(folder: Path) -> None:
    source = open_source(folder / "class0")
    assert source.labels is None
    ((_, labels, _),) = evaluation_loader(EvaluationDataset(source, np.arange(3), SIZE), 4, 0)
    assert labels.tolist() == [-1] * 3


def test_digits_are_enlarged_and_neither_mirrored_nor_cropped_much() -> None:
    dataset = views("digits")
    scan = np.asarray(dataset.source.image(1)).astype(float)
    plain = PretrainDataset(
        dataset.source, dataset.indices, SIZE, Augmentation((1, 1), (1, 1), flip=False), 5
    )[0, 1]["image"]
    assert plain.shape == (3, SIZE, SIZE)
    # The mean over each pixel's 4 x 4 block is close to the pixel.
    blocks = plain[0].double().unflatten(0, (8, 4)).unflatten(2, (8, 4)).mean(dim=(1, 3))
    assert np.abs(blocks.numpy() - scan[..., 0]).max() < 40
    for epoch in range(20):
        view = dataset[epoch, 1]["image"][0].double()
        correlation = [
            np.corrcoef(view.flatten(), other[0].double().flatten())[0, 1]
            for other in (plain, plain.flip(-1))
        ]
        assert correlation[0] > 0.75
        assert correlation[0] > correlation[1]
