"""The `ssl-fast` command: finds the command that is meant and hands it the rest of the line."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from ._version import __version__

# Name, module with `main(argv) -> exit code`, help. Modules are imported when called, so that a
# command whose extras are missing stands in no other's way.
COMMANDS = (
    ("pretrain", "ssl_fast.training.command", "pretrain a vision model on images without labels"),
    ("bench", "ssl_fast.bench.command", "measure the kernels against what people use today"),
    ("doctor", "ssl_fast.doctor", "what is installed here, and which kernels serve"),
)


class _Parser(argparse.ArgumentParser):
    """Errors of one line: the usage that argparse prints before them says nothing here."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ssl-fast", description="Faster self-supervised pretraining in PyTorch.")
    parser.add_argument("--version", action="version", version=f"ssl_fast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=_Parser)
    for name, _, text in COMMANDS:
        commands.add_parser(name, help=text, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 2 for a line that is not understood.

    Args:
        argv: the arguments, without the program's name; those of the process if None.

    Raises:
        SystemExit: after --help and --version (0), and for what is not understood (2).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    modules = {name: module for name, module, _ in COMMANDS}
    known = ", ".join(modules)
    if not arguments:
        parser.error(f"no command was given; commands are: {known} (--help says more)")
    first, rest = arguments[0], arguments[1:]
    if first not in modules:
        kind = "command"
        if first.startswith("-"):
            kind = "option"
            parser.parse_known_args([first])  # --help and --version end here; none takes a value
        parser.error(f"unknown {kind} {first!r}; commands are: {known}")
    try:
        command = importlib.import_module(modules[first])
    except ImportError as error:
        parser.error(f"{first} cannot start: {error}")
    return command.main(rest)
