"""The index of a folder of images: walked once, kept in flat arrays, cached between runs."""

from __future__ import annotations

import hashlib
import heapq
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_ENDINGS = frozenset(ending.encode() for ending in ENDINGS)

FORMAT = 1  # of the cache file; also to be raised when ENDINGS or the rules of the walk change
UNKNOWN = -1  # the time of a directory that has to be walked again by the next run
# A directory changed less than this ago may change again within one tick of its file system's
# clock, and its time would not show it.
SETTLED_NS = 2_000_000_000


class DataError(ValueError):
    """What is wrong with the images that the user named, in one line for the terminal."""


@dataclass(frozen=True, eq=False)
class PathTable:
    """Paths in two arrays, however many they are.

    A list of a million `bytes` is copied page by page into each forked worker (reading an object
    writes its reference count) and takes seconds to pickle; two arrays stay shared and are one
    copy.

    Args:
        text: [total bytes] uint8, the paths one after the other.
        offsets: [N + 1] int64, where each starts, and the end of the last.
    """

    text: np.ndarray
    offsets: np.ndarray

    @classmethod
    def pack(cls, paths: Sequence[bytes]) -> PathTable:
        offsets = np.zeros(len(paths) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, paths), np.int64, len(paths)), out=offsets[1:])
        return cls(np.frombuffer(b"".join(paths), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"index is {index}; expected 0 to {len(self) - 1}")
        return self.text[self.offsets[index] : self.offsets[index + 1]].tobytes()


@dataclass(frozen=True, eq=False)
class FolderIndex:
    """What a walk over a folder found.

    Args:
        root: the folder, absolute, free of symbolic links.
        paths: the images relative to it, parts joined by "/", in bytewise order.
        others: number of files that are no images by their ending.
        directories: every directory walked, relative to root.
        times: [directories] int64, when each was last changed, in ns; UNKNOWN where not to trust.
        cached: whether this came from the cache.
    """

    root: bytes
    paths: PathTable
    others: int
    directories: PathTable
    times: np.ndarray
    cached: bool = False


def index_folder(folder: str) -> FolderIndex:
    """The images in a folder and in the folders in it, from the cache if nothing has changed.

    Hidden files and folders are left out. Symbolic links are followed; a folder reached on several
    ways counts once. To see files come and go it is enough to look at the directories' times.

    Args:
        folder: any path.

    Raises:
        DataError: if it is missing, no folder, not readable, or has no image in it.
    """
    root = os.path.realpath(os.fsencode(folder))
    if not os.path.isdir(root):
        problem = "is a file; expected a folder" if os.path.exists(root) else "does not exist"
        raise DataError(f"the folder of images {printable(root)} {problem}")
    file = _cache_file(root)
    index = _load(file, root)
    if index is None:
        index = walk(root)
        if len(index.paths):
            _save(file, index)
    if not len(index.paths):
        others = f"{index.others:,} other file{'' if index.others == 1 else 's'}"
        raise DataError(
            f"no image in {printable(root)}: found {others}, and none that ends with "
            f"{', '.join(ENDINGS)}"
        )
    return index


def walk(root: bytes) -> FolderIndex:
    """Walks the folder `root`, past the cache.

    Raises:
        DataError: if the folder itself cannot be listed; one in it is skipped with a warning.
    """
    images: list[bytes] = []
    directories: list[bytes] = []
    times: list[int] = []
    others = 0
    seen: set[tuple[int, int]] = set()
    settled = time.time_ns() - SETTLED_NS
    # Folders under their own names come first, then links in order: an image that both reach is
    # found under its own name whatever order the file system lists them in.
    own, links = [b""], list[bytes]()
    while own or links:
        directory = own.pop() if own else heapq.heappop(links)
        try:
            status = os.stat(os.path.join(root, directory))  # before the listing, not after
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            time_ns = status.st_mtime_ns if status.st_mtime_ns < settled else UNKNOWN
            others += _list(root, directory, images, own, links)
        except OSError as error:
            if not directory:
                raise DataError(f"cannot list {printable(root)}: {error.strerror}") from None
            log.warning("skipped the folder %s: %s", printable(directory), error.strerror)
            time_ns = UNKNOWN
        directories.append(directory)
        times.append(time_ns)
    images.sort()
    table = PathTable.pack(images)
    return FolderIndex(root, table, others, PathTable.pack(directories), np.array(times, np.int64))


def _list(
    root: bytes, directory: bytes, images: list[bytes], own: list[bytes], links: list[bytes]
) -> int:
    """Adds what is in one directory to the lists; returns how many files are no images."""
    others = 0
    prefix = directory + b"/" if directory else b""
    with os.scandir(os.path.join(root, directory)) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(b"."):
                continue
            is_link = entry.is_symlink()
            is_folder, is_file = _follow(entry) if is_link else (entry.is_dir(), entry.is_file())
            if is_folder and is_link:
                heapq.heappush(links, prefix + name)
            elif is_folder:
                own.append(prefix + name)
            elif is_file and name[name.rfind(b".") :].lower() in _ENDINGS:
                images.append(prefix + name)
            else:
                others += 1
    return others


def _follow(entry: os.DirEntry[bytes]) -> tuple[bool, bool]:
    """Whether a link leads to a folder, to a file; to neither if it leads nowhere."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself, or into a folder that may not be read
        return False, False


def printable(path: bytes) -> str:
    """A path for messages: bytes that are no UTF-8 become escapes, which any terminal takes."""
    return path.decode("utf-8", "backslashreplace")


def _cache_file(root: bytes) -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(home):  # the XDG specification: a relative one is to be ignored
        home = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home, "ssl_fast", f"index-{hashlib.sha256(root).hexdigest()[:32]}.npz")


def _load(file: Path, root: bytes) -> FolderIndex | None:
    """The cached index, or None if there is none, it is damaged, or a directory has changed."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if int(arrays["format"]) != FORMAT or arrays["root"].tobytes() != root:
                return None
            index = FolderIndex(
                root,
                PathTable(arrays["text"], arrays["offsets"]),
                int(arrays["others"]),
                PathTable(arrays["directory_text"], arrays["directory_offsets"]),
                arrays["times"],
                cached=True,
            )
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive raises anything, from BadZipFile to MemoryError
        log.info("the index %s is not readable (%s) and made again", file, error)
        return None
    return index if _unchanged(index) else None


def _unchanged(index: FolderIndex) -> bool:
    if (index.times == UNKNOWN).any():
        return False
    try:
        return all(
            os.stat(os.path.join(index.root, index.directories[i])).st_mtime_ns == time_ns
            for i, time_ns in enumerate(index.times.tolist())
        )
    except OSError:
        return False


def _save(file: Path, index: FolderIndex) -> None:
    """Writes the cache file; not being able to is no error. A reader never sees half of it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                np.savez(
                    stream,
                    format=np.int64(FORMAT),
                    root=np.frombuffer(index.root, np.uint8),
                    text=index.paths.text,
                    offsets=index.paths.offsets,
                    others=np.int64(index.others),
                    directory_text=index.directories.text,
                    directory_offsets=index.directories.offsets,
                    times=index.times,
                )
            os.replace(draft, file)
        except BaseException:
            os.unlink(draft)
            raise
    except OSError as error:
        log.info("the index is not kept for the next run: %s", error)
