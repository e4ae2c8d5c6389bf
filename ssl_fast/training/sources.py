"""Where images come from: a folder, or scikit-learn's digits."""

from __future__ import annotations

import bisect
import dataclasses
import logging
import os
from abc import ABC, abstractmethod

import numpy as np
from PIL import Image

from ..random import derive_seed
from .augment import Augmentation
from .decode import Unreadable, decode
from .index import DataError, PathTable, index_folder, printable
from .views import View

log = logging.getLogger(__name__)

PROBED = 64  # images that are tried before a run starts
HELD_OUT = 10_000  # at most so many images are held out: probes need no more
# Areas of views of digits, as shares of the image: what is cropped off is part of the sign.
DIGIT_CROPS, DIGIT_PARTS = (0.5, 1.0), (0.3, 0.5)


class Source(ABC):
    """Images by number. Cheap to send to workers: arrays, no list of paths.

    Attributes:
        labels: [N] int64, index in `classes`; None where there are none.
        classes: names of the classes, sorted; empty without labels.
        description: one line: how many images, how many classes, where.
        default_augmentation: what suits these images; None for that of the method.
    """

    labels: np.ndarray | None
    classes: list[str]
    description: str
    default_augmentation: Augmentation | None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int, at_least: int | None = None) -> Image.Image:
        """One image, mode "RGB".

        Args:
            index: 0 to N - 1.
            at_least: the shorter side that is needed, in pixels: a larger image may come smaller,
                down to this.

        Raises:
            Unreadable: with the reason.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call an image in a message."""

    def suited(self, view: View) -> View:
        """A method's view as it suits these images: here as it is."""
        return view


class FolderSource(Source):
    """The image files in a folder and in the folders in it.

    They have labels if all of them lie in folders of this one, and it has two such or more: then
    the name of that folder is the class.

    Args:
        folder: its path.

    Raises:
        DataError: if it is missing, no folder, not readable, or has no image in it.
    """

    def __init__(self, folder: str) -> None:
        index = index_folder(folder)
        self.root = index.root
        self.paths = index.paths
        self.labels, self.classes = class_folders(index.paths)
        self.default_augmentation = None
        self.description = (
            f"{_count(len(self), 'image')} {_in_classes(self.classes)} in {printable(self.root)}"
        )
        log.info(
            "%s, and %s (%s)",
            self.description,
            _count(index.others, "other file"),
            "from the cached index" if index.cached else "indexed now",
        )

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int, at_least: int | None = None) -> Image.Image:
        return decode(os.path.join(self.root, self.paths[index]), at_least)

    def name(self, index: int) -> str:
        return printable(self.paths[index])


class DigitsSource(Source):
    """scikit-learn's bundled digits: 1,797 scans of 43 people's handwriting, 8 x 8 pixels.

    Raises:
        DataError: if scikit-learn is not installed.
    """

    def __init__(self) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise DataError(
                "the digits come with scikit-learn, which is missing: pip install scikit-learn"
            ) from None
        data = load_digits()
        self.scans = np.rint(data.images * (255 / 16)).astype(np.uint8)  # ink is 0 to 16
        self.labels = data.target.astype(np.int64)
        self.classes = [str(name) for name in data.target_names]
        # A mirrored digit is another sign, and there is no margin to crop.
        self.default_augmentation = Augmentation(scale=(0.8, 1.0), ratio=(0.9, 1.1), flip=False)
        self.description = (
            f"{_count(len(self), 'image')} {_in_classes(self.classes)}, scikit-learn's digits"
        )

    def __len__(self) -> int:
        return len(self.scans)

    def image(self, index: int, at_least: int | None = None) -> Image.Image:
        return Image.fromarray(self.scans[index]).convert("RGB")

    def name(self, index: int) -> str:
        return f"digit {index}"

    def suited(self, view: View) -> View:
        """Gray signs that fill their image: milder crops, a little light, no other colours."""
        brightness, contrast, _, _ = view.jitter
        return dataclasses.replace(
            view,
            scale=DIGIT_PARTS if view.local else DIGIT_CROPS,
            jitter=(brightness / 4, contrast / 4, 0.0, 0.0),
            grayscale=0.0,
            solarize=0.0,
            flip=0.0,
        )


def open_source(data: str | os.PathLike[str]) -> Source:
    """The images that the user named.

    Args:
        data: path of a folder, or "digits" where there is no folder of this name.

    Raises:
        DataError: if there is no such folder or it has no image in it.
    """
    path = os.path.expanduser(os.fspath(data))
    if not path:
        raise DataError('no images were named; expected a folder of images, or "digits"')
    if path == "digits" and not os.path.isdir(path):
        return DigitsSource()
    return FolderSource(path)


def class_folders(paths: PathTable) -> tuple[np.ndarray | None, list[str]]:
    """Labels [N] int64 and class names from the first folder of each path; None, [] if no classes.

    The paths are sorted, so each class is one run of them, and a bisection finds its end.
    """
    runs: list[tuple[bytes, int, int]] = []
    start = 0
    while start < len(paths):
        folder, slash, _ = paths[start].partition(b"/")
        if not slash:
            return None, []
        end = bisect.bisect_left(paths, folder + b"0", start)  # "0" is what follows "/"
        runs.append((folder, start, end))
        start = end
    if len(runs) < 2:
        return None, []
    runs.sort()  # by name; the paths have "a-b/" before "a/"
    labels = np.empty(len(paths), np.int64)
    for label, (_, start, end) in enumerate(runs):
        labels[start:end] = label
    return labels, [printable(folder) for folder, _, _ in runs]


def check_readable(source: Source) -> None:
    """Tries images spread over the source until one can be read.

    Raises:
        DataError: if none of up to 64 can, with the reason of the first.
    """
    first = ""
    tried = np.unique(np.linspace(0, len(source) - 1, PROBED, dtype=np.int64)).tolist()
    for index in tried:
        try:
            source.image(index)
        except Unreadable as error:
            first = first or f"{source.name(index)}: {error}"
        else:
            return
    raise DataError(
        f"none of {_count(len(tried), 'image')} tried could be read ({source.description}); "
        f"the first: {first}"
    )


def split(source: Source, holdout: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides a source into images to train on and images held out, by class where there are any.

    Of each class the share `holdout` is held out, at least one image if it has two, never all;
    of the whole at most 10,000.

    Args:
        holdout: share held out, 0 up to, not with, 1; 0 holds out none.
        seed: of the run.

    Returns:
        Two sorted arrays int64 of indices: to train on, held out.

    Raises:
        ValueError: for another holdout.
    """
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is {holdout}; expected 0 up to, not with, 1")
    everything = np.arange(len(source))
    if holdout == 0:
        return everything, everything[:0]
    random = np.random.Generator(np.random.Philox(key=derive_seed(seed)))
    shuffled = random.permutation(len(source))
    labels = np.zeros(len(source), np.int64) if source.labels is None else source.labels
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]  # class by class
    counts = np.bincount(labels)
    share = min(holdout, HELD_OUT / len(source))
    wanted = np.clip(np.rint(counts * share).astype(np.int64), 1, np.maximum(counts - 1, 0))
    place = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    held_out = order[place < np.repeat(wanted, counts)]
    held_out = np.sort(random.permutation(held_out)[:HELD_OUT])
    return np.setdiff1d(everything, held_out, assume_unique=True), held_out


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _in_classes(classes: list[str]) -> str:
    return f"in {len(classes):,} classes" if classes else "without classes"
