"""The command `ssl-fast pretrain`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .._compat.torchvision import INSTALL


def main(argv: Sequence[str]) -> int:
    """Runs the command: 0 when done, 130 when stopped on a signal, 1 or 2 for what is wrong.

    Args:
        argv: the arguments after `pretrain`.
    """
    try:
        options = _parse(argv)
        from .checkpoints import Diverged
        from .data import LoaderError
        from .pretrain import pretrain
    except ImportError as error:
        return _complain(f"{error}; install what is missing with {INSTALL}", 1)
    try:
        result = pretrain(**options)
    except (ValueError, TypeError, NotImplementedError, ImportError, OSError) as error:
        return _complain(str(error), 1)
    except (Diverged, LoaderError) as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    return 0 if result.finished else 130


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    from jsonargparse import ArgumentParser

    from .options import PretrainOptions

    class Parser(ArgumentParser):
        """Errors of one line."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            # The parser puts what it tried, in several lines, behind the reason.
            lines = [line.strip() for line in str(message).splitlines() if line.strip()]
            sys.exit(_complain(" ".join(lines), 2))

    parser = Parser(
        prog="ssl-fast pretrain",
        description="Pretrains a vision model on images without labels; see the README.",
    )
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_class_arguments(PretrainOptions, as_group=False)
    parsed = parser.parse_args(list(argv))
    return {key: value for key, value in parsed.as_dict().items() if key != "config"}


def _complain(message: str, code: int) -> int:
    # Several processes of one run have the same complaint: the first one speaks.
    if os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("RANK", "0") == "0":
        print(f"ssl-fast pretrain: {message}", file=sys.stderr)
    return code
