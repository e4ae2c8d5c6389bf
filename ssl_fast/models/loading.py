"""Pretrained weights: reads a checkpoint and loads what fits into a module."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger("ssl_fast")

_SCHEMES = ("http", "https", "file")
_MISMATCH = re.compile(r"size mismatch for ([^:]+): (.+)")
_REFUSED = re.compile(r"GLOBAL (\S+)")
_SHOWN = 10  # names in one line of the log


class _Discarded:
    """Stands for what mmengine keeps in a checkpoint beside the weights.

    Its training log is made of HistoryBuffers, which hold NumPy arrays and methods found through
    getattr. None of it is wanted, so none of it is built: mmengine need not be there, and no code
    of a checkpoint's choice runs.
    """

    def __new__(cls, *args: Any) -> _Discarded:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


_MMENGINE_LOG: list[Any] = [
    (_Discarded, name)
    for name in (
        "mmengine.logging.history_buffer.HistoryBuffer",
        "builtins.getattr",
        "numpy.ndarray",
        "numpy.dtype",
        *(
            f"numpy.{core}.multiarray.{function}"
            for core in ("core", "_core")
            for function in ("_reconstruct", "scalar")
        ),
    )
]


@dataclass(frozen=True)
class Loaded:
    """What did not fit when weights were loaded, by the names of parameters and buffers.

    Attributes:
        missing: in the module, not in the checkpoint.
        unexpected: in the checkpoint, not in the module.
        mismatched: in both, with different shapes.
    """

    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]


def load_pretrained(
    module: nn.Module, checkpoint: str | PathLike[str], prefix: str | None = None
) -> Loaded:
    """Loads the weights of a checkpoint that fit; what does not is logged and stays as it was.

    Unlike upstream, a checkpoint can run no code (`weights_only`), and a parameter of another
    shape is named with both shapes.

    Args:
        checkpoint, prefix: see `read_checkpoint`.

    Raises:
        FileNotFoundError, OSError, ValueError: see `read_checkpoint`.
    """
    state = read_checkpoint(checkpoint, prefix)
    details: dict[str, str] = {}
    try:
        result = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        # Hooks of modules may rename or resize entries, so that only loading tells what fits.
        details = dict(_MISMATCH.findall(str(error)))
        if not details:
            raise
        result = module.load_state_dict(
            {name: tensor for name, tensor in state.items() if name not in details}, strict=False
        )
    # Newer than many checkpoints, and without effect unless momentum is None: no loss.
    missing = [
        name
        for name in result.missing_keys
        if name not in details and not name.endswith("num_batches_tracked")
    ]
    loaded = Loaded(missing, list(result.unexpected_keys), list(details))
    kind = type(module).__name__
    logger.info("loaded %d weights from %s into %s", len(state), checkpoint, kind)
    if missing:
        logger.warning("%s lacks weights of %s: %s", checkpoint, kind, _some(missing))
    if loaded.unexpected:
        logger.warning(
            "%s has no place for weights of %s: %s", kind, checkpoint, _some(loaded.unexpected)
        )
    if details:
        shapes = [f"{name} ({text})" for name, text in details.items()]
        logger.warning(
            "%s has weights of another shape than %s: %s", checkpoint, kind, _some(shapes)
        )
    return loaded


def read_checkpoint(
    checkpoint: str | PathLike[str], prefix: str | None = None
) -> dict[str, Tensor]:
    """The weights in a checkpoint, on the CPU.

    Args:
        checkpoint: a local path, or an http, https or file URL, which is downloaded once (as by
            `torch.hub`). It holds a state dict, or a dict with one under "state_dict".
        prefix: only weights whose names begin with this, such as "backbone.", are taken, without
            it.

    Returns:
        Tensors by name, without the "module." that data parallelism adds.

    Raises:
        FileNotFoundError: if a local file is missing.
        OSError: if a URL cannot be downloaded.
        ValueError: if the file is no checkpoint of torch or damaged, if it holds objects that are
            not loaded for safety, which are named, or if it holds no weights.
    """
    content = _read(checkpoint)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        inside = _some(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"checkpoint {checkpoint} has no weights, neither directly nor under 'state_dict'; "
            f"it has {inside or 'nothing'}"
        )
    tensors = {
        name.removeprefix("module."): value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    if not prefix:
        return tensors
    prefix = prefix.removesuffix(".") + "."
    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    if not found:
        raise ValueError(
            f"checkpoint {checkpoint} has no weights that begin with {prefix!r}; it has "
            f"{_some(tensors)}"
        )
    return found


def _read(checkpoint: str | PathLike[str]) -> Any:
    """What torch finds in a file or behind a URL."""
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    scheme, separator, _ = str(checkpoint).partition("://")
    load: Callable[[], Any]
    if separator:
        if scheme not in _SCHEMES:
            accepted = "a local path or a URL with " + ", ".join(_SCHEMES)
            raise ValueError(f"checkpoint is {checkpoint}; accepted are {accepted}")
        url = str(checkpoint)

        def load() -> Any:
            return torch.hub.load_state_dict_from_url(url, progress=False, **options)
    else:
        path = Path(checkpoint).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"checkpoint {checkpoint} is not there, or is not a file")

        def load() -> Any:
            return torch.load(path, **options)

    try:
        with torch.serialization.safe_globals(_MMENGINE_LOG):
            return load()
    except MemoryError:
        raise
    except OSError as error:
        raise OSError(f"checkpoint {checkpoint} cannot be read: {error}") from error
    except Exception as error:  # damaged files fail in many ways
        if refused := _REFUSED.search(str(error)):
            raise ValueError(
                f"checkpoint {checkpoint} holds a {refused[1]}, which is not loaded for safety; "
                f"save its weights alone, or allow it with torch.serialization.add_safe_globals"
            ) from error
        raise ValueError(
            f"checkpoint {checkpoint} cannot be read: it is damaged, or no checkpoint of torch"
        ) from error


def _some(names: Iterable[str]) -> str:
    listed = [str(name) for name in names]
    more = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
