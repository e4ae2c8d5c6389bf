"""Files that are whole or not there: failures, kills and the order of what reaches the disk."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ssl_fast.training import files
from ssl_fast.training.files import remove_leftovers, write_atomically

KILLED = """
import os, sys
from ssl_fast.training.files import write_atomically
with write_atomically(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("mode", "content"), [("wb", b"\x00\xffnew"), ("w", "n\u00e9w\n")])
def test_replaces_when_the_block_ends(tmp_path, mode, content):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")
    with write_atomically(str(path), mode) as file:
        file.write(content)
        file.flush()
        assert path.read_bytes() == b"old"
    expected = content if mode == "wb" else content.encode()
    assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")

    def fail():
        with write_atomically(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_kill_leaves_the_old_file_and_a_leftover_that_can_be_removed(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")
    others = [tmp_path / name for name in (".hidden.tmp", "notes.tmp", ".x.0123456g.tmp")]
    for other in others:
        other.touch()
    killed = subprocess.run([sys.executable, "-c", KILLED, path])
    assert killed.returncode == -9
    assert path.read_bytes() == b"old"
    (leftover,) = remove_leftovers(tmp_path)
    assert leftover.name.startswith(".last.ckpt.")
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])
    assert remove_leftovers(tmp_path) == []


def test_content_is_on_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace

    def record_sync(descriptor):
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def record_replace(source, target):
        calls.append("replace")
        assert source.read_bytes() == b"new"
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", record_sync)
    monkeypatch.setattr(files.os, "replace", record_replace)
    with write_atomically(tmp_path / "a") as file:
        file.write(b"new")
    assert calls == ["file", "replace", "folder"]


def test_two_writers_do_not_mix(tmp_path):
    path = tmp_path / "a"
    with write_atomically(path) as first, write_atomically(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_a_plain_file(tmp_path):
    plain, path = tmp_path / "plain", tmp_path / "a"
    plain.touch()
    with write_atomically(path):
        pass
    assert path.stat().st_mode == plain.stat().st_mode


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="mode is 'a'"), write_atomically(tmp_path / "a", "a"):
        pass
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "missing" / "a"):
        pass
