"""Files that are either whole or not there, whatever stops the process."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def write_atomically(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a file that replaces `path` when the block ends, on disk and in one step.

    Until then, and for ever if the block raises, `path` is what it was. A process killed in the
    block leaves a hidden `.NAME.xxxxxxxx.tmp` beside it, which `remove_leftovers` deletes.

    Args:
        path: the file to write; its folder exists.
        mode: "wb", or "w" for text in UTF-8.

    Raises:
        ValueError: for another mode.
        OSError: if the file cannot be written.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode is {mode!r}; accepted are 'wb' and 'w'")
    path = Path(path)
    # In the same folder, since a rename is atomic only within a file system; a name of its own,
    # so that two writers of one path do not write into one file.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    encoding = "utf-8" if mode == "w" else None
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Deletes what killed writers left in `folder`, not below it, and returns the paths.

    Call it only while nothing writes there: a temporary file in use looks the same.
    """
    pattern = ".*." + "[0-9a-f]" * 8 + ".tmp"
    leftovers = sorted(Path(folder).glob(pattern))
    for path in leftovers:
        path.unlink()
    return leftovers


def _sync_folder(folder: Path) -> None:
    """Puts a rename on disk: without it a power cut may undo it."""
    if os.name != "posix":  # other systems do not open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
