"""The folder of a run: numbered, never overwritten, and found again to go on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from .checkpoints import CheckpointError
from .files import write_atomically
from .options import PretrainOptions

LOGGER = logging.getLogger("ssl_fast")
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"


def new_folder(wanted: Path) -> Path:
    """Makes `wanted`, or `wanted-2`, `wanted-3` and so on: the first that is not there."""
    number = 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def write_config(folder: Path, options: PretrainOptions) -> None:
    """Writes config.yaml, which `--config` takes."""
    with write_atomically(folder / "config.yaml", "w") as file:
        yaml.safe_dump(options.as_dict(), file, sort_keys=False)


def read_config(folder: Path) -> PretrainOptions:
    """The options of the run in `folder`.

    Raises:
        CheckpointError: if there is no such file, or it is not one of ours.
    """
    path = folder / "config.yaml"
    try:
        values = yaml.safe_load(path.read_text())
        return PretrainOptions(**values)
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} is not the folder of a run: {error}") from error


def find_run(resume: str) -> tuple[Path, Path]:
    """(folder, checkpoint) of the run that `resume` names: its folder, or a checkpoint in it.

    Raises:
        CheckpointError: if there is no checkpoint.
    """
    path = Path(resume)
    if path.suffix == ".ckpt":
        folder, checkpoint = path.parent.parent, path
    else:
        folder, checkpoint = path, path / CHECKPOINTS / LAST
    if not checkpoint.is_file():
        raise CheckpointError(
            f"resume is {resume!r}, where there is no {checkpoint}: the run saved no checkpoint, "
            f"or this is not its folder"
        )
    return folder, checkpoint


class ConsoleHandler(logging.Handler):
    """Shows messages on a console, above its live line, as they are."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), highlight=False, markup=False, soft_wrap=True)


def open_log(folder: Path, console: Console) -> list[logging.Handler]:
    """Sends the project's messages to train.log and to the console, until `close_log`."""
    file = logging.FileHandler(folder / "train.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = [file, ConsoleHandler(console)]
    for handler in handlers:
        LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    return handlers


def close_log(handlers: list[logging.Handler]) -> None:
    """Ends what `open_log` began."""
    while handlers:
        handler = handlers.pop()
        LOGGER.removeHandler(handler)
        handler.close()


def describe(record: dict[str, Any]) -> str:
    """The accuracies of an evaluation, as one phrase."""
    return f"k-NN {record['knn']:.1%}, linear probe {record['linear']:.1%}"
