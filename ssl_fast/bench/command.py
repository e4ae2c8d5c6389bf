"""The command `ssl-fast bench`: measures, shows what it found, compares with earlier finds."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from . import compare, listing, machine, page, report, runner, summary
from .cases import families, load
from .report import Row
from .runner import Refused
from .worker import Job

OUT = Path("runs") / "bench"
RESULTS = Path("bench") / "results"
OF_THE_MACHINE = Path("{machine}.csv")
# Commands of their own, each a module with a `main`, which a run of all ops also does.
ALSO = ("steps", "loader")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0 if every provider that could run was right (`compare`: if nothing is slower); 1 if one was
        not, or the tests fail; 2 for arguments that make no sense.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words.pop(0) if words and words[0] in COMMANDS else "run"
    try:
        return COMMANDS[command](words)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Refused as reason:
        print(f"no numbers: {reason}", file=sys.stderr)
        return 1


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    name = "ssl-fast bench" if command == "run" else f"ssl-fast bench {command}"
    return argparse.ArgumentParser(name, description=description)


# ---- Measuring


def run(words: Sequence[str]) -> int:
    """`ssl-fast bench`: measures what was asked for, tells and writes it."""
    options = _parse(words)
    jobs = _jobs(options)
    if options.csv:
        report.read_csv(options.csv)  # what cannot be added to is better known now
    if warning := machine.load_warning(machine.busy_share(options.device), options.device):
        print(warning, file=sys.stderr)
    if jobs:
        runner.run_tests(jobs[-1].families, options.device)
    rows: list[Row] = []
    shared = len(jobs) > 1
    with tempfile.TemporaryDirectory(prefix="ssl_fast-bench-") as folder:
        for job in jobs:
            for case_rows in runner.run_job(replace(job, truths=folder if shared else "")):
                rows += case_rows
                if options.csv and not options.small:
                    report.write_csv(options.csv, case_rows)  # at once: a long run may be cut short
    others = [_run_apart(name, options) for name in _also(options)]
    if rows:
        _tell(rows, options)
    failed = [row for row in rows if row.kind == report.FAILED]
    for row in failed:
        print(f"{row.op}, {row.case}, {row.dtype}, {row.provider}: {row.status}", file=sys.stderr)
    return 1 if failed or any(others) or not (rows or others) else 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _parser("run", "Measures ssl_fast against what people use today.")
    known = ", ".join(families())
    parser.add_argument("--op", default="all", help=f"families with commas between: {known}")
    parser.add_argument(
        "--cases",
        default="headline,growth,steps,loader",
        help="headline: those of the summary; growth: how cost grows; all: every case and "
        "provider; steps, loader: those commands too, if no ops are chosen",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="for the rounds of one case")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the table and the page")
    parser.add_argument(
        "--csv",
        type=Path,
        nargs="?",
        const=RESULTS / OF_THE_MACHINE,
        help="file that the results are also put into; without a name that of this machine in "
        f"{RESULTS}",
    )
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--allocator", choices=("both", *machine.ALLOCATORS), default="both")
    parser.add_argument("--providers", default="", help="names with commas between; all if empty")
    parser.add_argument(
        "--small", action="store_true", help="small shapes, to try the harness; writes no file"
    )
    options = parser.parse_args(words)
    if options.csv and options.csv.name == OF_THE_MACHINE.name:
        name = machine.slug(machine.name_of(options.device))
        options.csv = options.csv.with_name(f"{name}.csv")
    return options


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _jobs(options: argparse.Namespace) -> list[Job]:
    """A job for each allocator; on a GPU memory is torch's own, so one.

    Growth is a matter of the shape, not of the heap: it is the last allocator's alone. So is
    torch.compile, unless all cases are wanted or it was asked for: compiling takes its time.
    """
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"threads is {options.threads}; expected 1 or more")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch sees no CUDA device; accepted is 'cpu'")
    chosen = families() if options.op == "all" else _names(options.op)
    both = options.allocator == "both" and options.device == "cpu"
    allocators = machine.ALLOCATORS if both else (options.allocator.replace("both", "default"),)
    providers = _names(options.providers)
    wanted = [name for name in _names(options.cases) if name not in ALSO]
    cases = {
        (family, selection): load(family, options.device, options.small, selection)
        for family in chosen
        for selection in wanted
    }
    jobs = []
    for allocator in allocators:
        last = allocator == allocators[-1]
        selections = tuple(name for name in wanted if name != "growth" or last)
        having = tuple(f for f in chosen if any(cases[f, selection] for selection in selections))
        job = Job(
            having,
            options.device,
            allocator,
            options.seconds,
            options.threads,
            providers,
            selections,
            options.small,
            compiled="all" in wanted or bool(providers) or last,
        )
        jobs += [job] if having else []
    known = {p.name: None for group in cases.values() for case in group for p in case.providers}
    if unknown := [name for name in providers if name not in known]:
        raise ValueError(f"providers are {unknown}; known are {', '.join(map(repr, known))}")
    return jobs


def _also(options: argparse.Namespace) -> list[str]:
    wanted = [name for name in _names(options.cases) if name in ALSO and options.op == "all"]
    return [name for name in wanted if name != "loader" or options.device == "cpu"]


def _run_apart(name: str, options: argparse.Namespace) -> int:
    """Another command, in a process of its own: it has models in memory and an allocator."""
    words = ["--out", str(options.out)]
    if name == "steps":
        words += ["--device", options.device]
        words += ["--threads", str(options.threads)] if options.threads else []
    words += ["--small"] if options.small else []
    return runner.run_command(name, words)


def _tell(rows: list[Row], options: argparse.Namespace) -> None:
    """Tables on the screen; files in the folder."""
    print(report.table(rows))
    if any(row.headline for row in rows):
        print(f"\n{summary.markdown(rows, options.device)}")
    if options.small or not rows:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    report.write_csv(options.out / "results.csv", rows)
    content = json.dumps([asdict(row) for row in rows], indent=1)
    (options.out / "results.json").write_text(content + "\n")
    steps, loading = (options.out / f"{name}.csv" for name in ALSO)
    _write_page(
        options.out / "page.html",
        rows,
        listings(steps if steps.is_file() else None, loading if loading.is_file() else None),
    )
    print(f"and {options.out}/results.csv (with earlier runs), results.json", file=sys.stderr)


def _write_page(path: Path, rows: list[Row], listings: Sequence[listing.Listing] = ()) -> None:
    why_not = page.write(path, rows, listings)
    print(f"written: {path}{f' ({why_not})' if why_not else ''}", file=sys.stderr)


# ---- Looking at results


def show_changes(words: Sequence[str]) -> int:
    """`ssl-fast bench compare`."""
    parser = _parser("compare", "Says what has become slower between two files of results.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.1, help="share that counts as none")
    options = parser.parse_args(words)
    return compare.main(options.old, options.new, options.tolerance)


def show_table(words: Sequence[str]) -> int:
    """`ssl-fast bench table`."""
    parser = _parser("table", "Prints the summary of a file of results as Markdown.")
    parser.add_argument("csv", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="that of the results")
    parser.add_argument(
        "--into",
        type=Path,
        help=f"file with {summary.BEGIN} and {summary.END}, or the same marks with an op's name "
        "for all its cases, or with a GPU's: <!-- bench hog on cuda: begin -->",
    )
    options = parser.parse_args(words)
    rows = report.read_rows(options.csv)
    device = options.device or ("cuda" if {row.device for row in rows} == {"cuda"} else "cpu")
    if options.into:
        summary.write_into(options.into, rows, device)
    else:
        print(summary.markdown(rows, device))
    return 0


def make_page(words: Sequence[str]) -> int:
    """`ssl-fast bench page`."""
    parser = _parser("page", "Makes the page, with its plots, of a file of results.")
    parser.add_argument("csv", type=Path)
    parser.add_argument("--out", type=Path, default=OUT / "page.html")
    parser.add_argument("--steps", type=Path, help="CSV of whole training steps")
    parser.add_argument("--loading", type=Path, help="CSV of the loading of data")
    options = parser.parse_args(words)
    _write_page(
        options.out, report.read_rows(options.csv), listings(options.steps, options.loading)
    )
    return 0


def listings(steps: Path | None, loading: Path | None) -> list[listing.Listing]:
    """What a page also shows, of files that are there.

    Raises:
        ValueError: for what is no file of results.
    """
    found = []
    if steps:
        text = "A training step: forward, backward, optimizer. Milliseconds, the less the better."
        found.append(listing.Listing("Whole steps", text, listing.read(steps)))
    if loading:
        text = "Images a second that a loader of data delivers, the more the better."
        of_value = {"value": "images_per_s", "unit": "images/s", "low": "", "high": ""}
        found.append(listing.Listing("Data loading", text, listing.read(loading), **of_value))
    return found


def _elsewhere(name: str) -> Callable[[Sequence[str]], int]:
    """The command of a module, which is imported when it is called."""
    return lambda words: importlib.import_module(f"{__package__}.{name}.command").main(words)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": run,
    "compare": show_changes,
    "table": show_table,
    "page": make_page,
    **{name: _elsewhere(name) for name in ALSO},
}
