"""The folder index: what it finds, in what order, and when the cache is believed."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssl_fast.training import index
from ssl_fast.training.index import DataError, PathTable, index_folder


def put(folder: Path, *names: str) -> None:
    """Makes empty files: the index looks at names alone."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def settle(folder: Path) -> None:
    """Lets all directories look as if nothing had happened in them for an hour."""
    then = time.time() - 3600
    for directory, _, _ in os.walk(folder):
        os.utime(directory, (then, then))


def names(found: index.FolderIndex) -> list[str]:
    return [os.fsdecode(found.paths[i]) for i in range(len(found.paths))]


def cache_files() -> list[Path]:
    return list(Path(os.environ["XDG_CACHE_HOME"], "ssl_fast").glob("*"))


def test_finds_images_by_ending_in_bytewise_order(tmp_path: Path) -> None:
    images = ["a/z.JPG", "a-b/1.jpeg", "a/b/c/2.Png", "B.webp", "c.bmp", "d.TIF", "e.tiff", "f.gif"]
    put(tmp_path, *images, "notes.txt", "a/jpg", "g.jpg.part", ".hidden.jpg", ".git/h.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "missing")
    found = index_folder(str(tmp_path))
    assert names(found) == sorted(images, key=os.fsencode)
    assert found.others == 4  # notes.txt, jpg, g.jpg.part, broken.jpg
    assert not found.cached


def test_links_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path / "data", "m/1.jpg")
    put(tmp_path / "elsewhere", "2.jpg")
    (tmp_path / "data/m/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/itself").symlink_to(tmp_path / "data/itself")
    (tmp_path / "data/a").symlink_to(tmp_path / "data/m")
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/3.jpg").symlink_to(tmp_path / "elsewhere/2.jpg")
    assert names(index_folder(str(tmp_path / "data"))) == ["3.jpg", "again/2.jpg", "m/1.jpg"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg"
    try:
        os.close(os.open(os.path.join(os.fsencode(tmp_path), name), os.O_CREAT))
    except OSError:
        pytest.skip("this file system takes no such name")
    assert index_folder(str(tmp_path)).paths[0] == name
    assert index.printable(name) == "caf\\xe9.jpg"


def test_errors_are_one_line_and_say_what_is_wrong(tmp_path: Path) -> None:
    put(tmp_path, "empty/a.txt", "empty/b/c.csv", "single/a.txt")
    for folder, text in {
        "missing": "missing does not exist",
        "empty/a.txt": "a.txt is a file; expected a folder",
        "empty": "empty: found 2 other files, and none that ends with .jpg, .jpeg",
        "single": "single: found 1 other file, and",
    }.items():
        with pytest.raises(DataError, match=text) as caught:
            index_folder(str(tmp_path / folder))
        assert "\n" not in str(caught.value)
    assert cache_files() == []


def test_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "a.jpg", "closed/b.jpg")
    settle(tmp_path)
    scandir = os.scandir
    closed = {os.path.join(os.fsencode(tmp_path.resolve()), b"closed")}

    def refuse(path: bytes) -> object:
        if path.rstrip(b"/") in closed:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(index_folder(str(tmp_path))) == ["a.jpg"]
    assert "skipped the folder closed: Permission denied" in caplog.text
    closed.clear()  # rights can change without a trace in the times
    assert names(index_folder(str(tmp_path))) == ["a.jpg", "closed/b.jpg"]
    closed.add(os.fsencode(tmp_path.resolve()))
    with pytest.raises(DataError, match=r"cannot list .*: Permission denied"):
        index.walk(os.fsencode(tmp_path.resolve()))


def test_cache_hit_is_the_same_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a/1.jpg", "b/2.jpg", "b/note.txt")
    settle(tmp_path)
    first = index_folder(str(tmp_path))
    monkeypatch.setattr(index, "walk", lambda root: pytest.fail("walked again"))
    second = index_folder(str(tmp_path))
    assert second.cached
    assert names(second) == names(first)
    assert second.others == first.others == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: put(folder, "b/c/4.jpg"), ["a/1.jpg", "b/c/3.jpg", "b/c/4.jpg"]),
        (lambda folder: (folder / "a/1.jpg").unlink(), ["b/c/3.jpg"]),
        (lambda folder: (folder / "b/c").rename(folder / "b/d"), ["a/1.jpg", "b/d/3.jpg"]),
        (lambda folder: put(folder, "e/5.jpg"), ["a/1.jpg", "b/c/3.jpg", "e/5.jpg"]),
    ],
    ids=["added", "removed", "renamed", "new folder"],
)
def test_cache_notices(
    tmp_path: Path, change: Callable[[Path], object], expected: list[str]
) -> None:
    put(tmp_path, "a/1.jpg", "b/c/3.jpg")
    settle(tmp_path)
    index_folder(str(tmp_path))
    assert index_folder(str(tmp_path)).cached
    change(tmp_path)
    found = index_folder(str(tmp_path))
    assert not found.cached
    assert names(found) == expected


def test_change_within_one_tick_of_the_clock(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")
    before = os.stat(tmp_path)
    index_folder(str(tmp_path))
    put(tmp_path, "2.jpg")
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert names(index_folder(str(tmp_path))) == ["1.jpg", "2.jpg"]


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no archive",
        lambda data: data[: len(data) // 2],
        lambda data: flip(data, data.index(b"1.jpg")),
        lambda data: flip(data, 0),
    ],
    ids=["empty", "text", "cut", "path", "header"],
)
def test_damaged_cache_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    put(tmp_path, "a/1.jpg", "b/2.jpg")
    settle(tmp_path)
    index_folder(str(tmp_path))
    (file,) = cache_files()
    file.write_bytes(damage(file.read_bytes()))
    found = index_folder(str(tmp_path))
    assert not found.cached
    assert names(found) == ["a/1.jpg", "b/2.jpg"]
    assert index_folder(str(tmp_path)).cached
    assert cache_files() == [file]


def test_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "data/1.jpg", "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level("INFO", logger="ssl_fast"):
        assert names(index_folder(str(tmp_path / "data"))) == ["1.jpg"]
    assert "not kept for the next run" in caplog.text
    assert all(record.levelname == "INFO" for record in caplog.records)


def test_a_million_paths_are_two_arrays() -> None:
    paths = [b"class%03d/image%07d.jpg" % (i // 1000, i) for i in range(1_000_000)]
    table = PathTable.pack(paths)
    assert len(table) == 1_000_000
    assert all(table[i] == paths[i] for i in range(0, 1_000_000, 9973))
    copy = pickle.loads(pickle.dumps(table, protocol=5))
    assert np.array_equal(copy.text, table.text)
    assert copy[999_999] == paths[-1]
    with pytest.raises(IndexError, match="1000000"):
        table[1_000_000]
