"""Sources: labels, names, messages, and how they are divided."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_fast.training import sources
from ssl_fast.training.index import DataError, PathTable
from ssl_fast.training.sources import check_readable, class_folders, open_source, split


class Labelled(sources.Source):
    """Labels alone."""

    def __init__(self, labels: list[int] | None, size: int = 0) -> None:
        self.labels = None if labels is None else np.array(labels, np.int64)
        self.size = size if labels is None else len(labels)

    def __len__(self) -> int:
        return self.size

    def image(self, index: int, at_least: int | None = None) -> Image.Image:
        raise NotImplementedError

    def name(self, index: int) -> str:
        raise NotImplementedError


def save(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), "red").save(file)


def test_digits() -> None:
    source = open_source("digits")
    assert len(source) == 1797
    assert source.classes == list("0123456789")
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert np.bincount(source.labels).min() >= 174
    assert not source.default_augmentation.flip
    image = np.asarray(source.image(0))
    assert image.shape == (8, 8, 3)
    # The first scan is a 0: dark middle, bright ring. Its ink of 15 of 16 is 239 of 255.
    assert image.max() == 239
    assert image[3, 3, 0] == 0
    assert (image[..., 0] == image[..., 2]).all()
    assert "1,797 images in 10 classes" in source.description


def test_a_folder_called_digits_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_source(f".{os.sep}digits")
    save(tmp_path / "digits/a.png")
    assert len(open_source("digits")) == 1


def test_a_folder(tmp_path: Path) -> None:
    for name in ("b/deep/1.png", "b/2.jpg", "a/3.bmp"):
        save(tmp_path / name)
    source = open_source(tmp_path)
    assert [source.name(i) for i in range(3)] == ["a/3.bmp", "b/2.jpg", "b/deep/1.png"]
    assert source.classes == ["a", "b"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 1]
    assert source.image(2).size == (6, 4)
    assert source.description == f"3 images in 2 classes in {tmp_path.resolve()}"
    assert source.default_augmentation is None  # the method says


def test_nothing_named() -> None:
    with pytest.raises(DataError, match="no images were named"):
        open_source("")


@pytest.mark.parametrize(
    ("paths", "labels", "classes"),
    [
        (["a-b/1", "a/1", "a/2/3", "c/1"], [1, 0, 0, 2], ["a", "a-b", "c"]),
        (["a/1", "b/c/2"], [0, 1], ["a", "b"]),
        (["a/1", "a/b/2"], None, []),
        (["a/1", "b/2", "c"], None, []),
        (["x"], None, []),
    ],
)
def test_class_folders(paths: list[str], labels: list[int] | None, classes: list[str]) -> None:
    encoded = [path.encode() for path in paths]
    assert encoded == sorted(encoded)
    found, names = class_folders(PathTable.pack(encoded))
    assert (None if found is None else found.tolist()) == labels
    assert names == classes


def test_check_readable(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i:03}.jpg").touch()
    with pytest.raises(DataError, match=r"none of 64 images tried .* 000.jpg: the file is empty"):
        check_readable(open_source(tmp_path))
    save(tmp_path / "099.jpg")
    check_readable(open_source(tmp_path))


def test_split_keeps_the_share_of_each_class() -> None:
    labels = [0] * 50 + [1] * 20 + [2] * 2 + [3]
    source = Labelled(labels)
    train, held_out = split(source, 0.1, seed=3)
    assert np.bincount(np.array(labels)[held_out], minlength=4).tolist() == [5, 2, 1, 0]
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()
    again = split(source, 0.1, seed=3)
    assert np.array_equal(again[1], held_out)
    assert not np.array_equal(split(source, 0.1, seed=4)[1], held_out)


def test_split_leaves_each_class_something_to_train_on() -> None:
    labels = [0] * 4 + [1] * 2
    train, _ = split(Labelled(labels), 0.99, seed=0)
    assert np.bincount(np.array(labels)[train]).tolist() == [1, 1]


def test_split_without_labels() -> None:
    train, held_out = split(Labelled(None, 40), 0.25, seed=0)
    assert (len(train), len(held_out)) == (30, 10)
    assert [len(part) for part in split(Labelled(None, 1), 0.5, seed=0)] == [1, 0]
    assert [len(part) for part in split(Labelled(None, 9), 0.0, seed=0)] == [9, 0]
    with pytest.raises(ValueError, match=r"holdout is 1\.0"):
        split(Labelled(None, 9), 1.0, seed=0)


def test_split_holds_out_no_more_than_probes_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "HELD_OUT", 12)
    labels = [i % 8 for i in range(800)]
    train, held_out = split(Labelled(labels), 0.5, seed=0)
    assert (len(train), len(held_out)) == (788, 12)
    many = [i // 2 for i in range(60)]  # 30 classes: one of each would be too many
    assert len(split(Labelled(many), 0.5, seed=0)[1]) == 12
