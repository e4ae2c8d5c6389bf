"""The command `ssl-fast bench loader`."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import machine, report
from .data import write_pictures
from .measure import Extent, measure
from .rows import COLUMNS, KEY, TITLE, LoaderRow

SMALL = Extent(batch=4, pictures=2, masks=2, epochs=1, workers=(0, 1))


def main(words: Sequence[str]) -> int:
    """Measures and tells; 1 if a maker of masks was wrong, or failed otherwise."""
    options = _parse(words)
    if importlib.util.find_spec("PIL") is None:
        raise ValueError("pictures need Pillow: `pip install pillow`")
    extent = SMALL if options.small else Extent()
    files = [] if options.small else [options.out / "loader.csv"]
    if options.csv and not options.small:
        files.append(options.csv)
    for file in files:
        report.read_csv(file, LoaderRow, KEY)  # what cannot be added to is better known now
    about: dict[str, Any] = {
        "machine": machine.name_of("cpu"),
        "commit": machine.commit(),
        "date": machine.today(),
        "busy": machine.busy_share("cpu"),
    }
    if warning := machine.load_warning(about["busy"], "cpu"):
        print(warning, file=sys.stderr)
    torch.set_num_threads(1)  # in this process as in workers
    rows: list[LoaderRow] = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = write_pictures(Path(folder), extent.batch * extent.pictures)
        for found in measure(pictures, extent):
            rows += [replace(row, **about) for row in found]
            head = f"loaded: {found[0].work}, {found[0].workers} workers"
            print(head, file=sys.stderr, flush=True)
    for file in files:
        report.write_csv(file, rows, LoaderRow, KEY)
    print(f"{TITLE}\n\n{report.plain_table(rows, COLUMNS)}")
    return 1 if any(row.kind == report.FAILED for row in rows) else 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "ssl-fast bench loader",
        description="Measures data loading with masks of ssl_fast.host and of other libraries.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of loader.csv")
    parser.add_argument("--csv", type=Path, help="file that the results are also put into")
    parser.add_argument(
        "--small", action="store_true", help="few images, to try the command; writes no file"
    )
    return parser.parse_args(words)
