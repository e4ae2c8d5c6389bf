"""One HTML page of results that needs nothing else: no network, no script. Plots also as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from . import digest, listing, machine, markup, plots, summary
from .digest import CaseRows, Series
from .listing import Listing
from .markup import cell
from .report import FAILED, OK, SKIPPED, Row

EXPLAINED = (
    "Each is of a provider whose outputs were compared with the float64 reference before any was "
    "timed; all providers of a case took turns. Times are medians, whiskers go from the 20th to "
    "the 80th percentile. The floor of a case is the longer of two times from its own rounds: a "
    "copy of the bytes that must be moved, and the operations of its products at the rate of a "
    "large product of matrices. (Without products, or in results from before they were measured, "
    "it is the copy alone.) On the CPU there are two regimes: glibc's default allocator gives "
    "large blocks back to the system at every free (pale bars), the tuned one keeps them, as the "
    "training command does. On a GPU times are those of replays of CUDA graphs, without launches, "
    "for calls under 20 ms of whoever can be captured in one; the tables also have how long a call "
    "keeps the CPU busy (host ms)."
)


def write(path: Path, rows: Sequence[Row], listings: Sequence[Listing] = ()) -> str:
    """Writes the page, and beside it `plots/*.svg`.

    Returns:
        Why there are no plots; empty if there are.
    """
    charts: dict[str, str] = {}
    text = html(rows, listings, charts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    for name, svg in charts.items():
        file = path.parent / "plots" / f"{name}.svg"
        file.parent.mkdir(exist_ok=True)
        file.write_text(svg)
    return plots.why_not()


def html(
    rows: Sequence[Row], listings: Sequence[Listing] = (), charts: dict[str, str] | None = None
) -> str:
    """The page.

    Args:
        charts: gets the plots by name, as files.
    """
    charts = {} if charts is None else charts
    families: dict[str, list[CaseRows]] = {}
    for case in digest.cases(rows):
        families.setdefault(digest.family_of(case.op), []).append(case)
    bodies = {
        "Summary": _summary(rows),
        **{family: _family(group, charts) for family, group in families.items()},
        "Growth": _growth(rows, charts),
        **{one.title: listing.section(one, charts) for one in listings if one.rows},
        "Skipped and failed": _missing(rows),
    }
    filled = {title: body for title, body in bodies.items() if body}
    return markup.document("ssl_fast: benchmarks", _about(rows), filled)


# ---- Sections


def _about(rows: Sequence[Row]) -> str:
    """Where, with what and when; how to read it; the ceilings."""
    timed = [row for row in rows if row.kind == OK]
    busy = [row.busy for row in timed if row.busy is not None]
    where = (f"{r.device}, torch threads: {r.threads}" if r.threads else r.device for r in timed)
    load = f"{min(busy):.0%} to {max(busy):.0%}, just before each case" if busy else ""
    facts = {
        "machine": _distinct(row.machine for row in timed),
        "device": _distinct(where),
        "versions": _distinct(part for row in timed for part in row.versions.split(", ")),
        "commit": _distinct(row.commit for row in timed),
        "date": _distinct(row.date for row in timed),
        "other work": load,
    }
    lines = [[(name, "text"), (value, "text long")] for name, value in facts.items() if value]
    failed = sum(row.kind == FAILED for row in rows)
    warnings = [f"{failed} failed."] if failed else []
    if busy and max(busy) > machine.BUSY_WARNING:
        warnings.append(f"Other work took up to {max(busy):.0%}: the times are not clean.")
    warning = f'<span class="bad">{" ".join(warnings)}</span> ' if warnings else ""
    parts = [
        markup.table([], lines),
        f"<p>{len(timed)} numbers. {warning}{escape(EXPLAINED)}</p>",
        _ceilings(rows),
    ]
    if reason := plots.why_not():
        parts.append(f"<p>{escape(reason)}</p>")
    return "\n".join(parts)


def _ceilings(rows: Sequence[Row]) -> str:
    lines = [
        [(f"{one.name}, {one.unit}", "text")]
        + [(cell(value), "") for value in (one.median, one.low, one.high)]
        for one in digest.ceilings(rows)
    ]
    head = [("ceiling, seen beside the cases", "text"), ("median", ""), ("lowest", "")]
    return markup.table([*head, ("highest", "")], lines) if lines else ""


def _summary(rows: Sequence[Row]) -> str:
    """The headline cases, for each device: as README has them."""
    tables = []
    for device in dict.fromkeys(row.device for row in rows if row.headline):
        head, *lines = (
            [(text.replace("`", "").replace("*", ""), "text" if place < 2 else "")
             for place, text in enumerate(line)]
            for line in summary.cells(rows, device)
        )  # fmt: skip
        tables.append(markup.table(head, lines))
    return "\n".join(tables)


def _family(cases: Sequence[CaseRows], charts: dict[str, str]) -> str:
    figures = []
    for case in cases:
        plot = ""
        if case.providers and not plots.why_not():
            charts[case.name] = plots.case_bars(case)
            plot = plots.inline(charts[case.name])
        table = markup.folded(_case_table(case), opened=not plot)
        figures.append(markup.figure(case.title, plot, table))
    return markup.grid(figures)


HEAD = (
    *("provider", "allocator", "median ms", "p20 to p80", "timing", "host ms"),
    *("MB beyond in and out", "GB/s", "GFLOP/s", "of the floor", "largest error"),
    "turned decisions",
)


def _case_table(case: CaseRows) -> str:
    lines, classes = [], []
    for row in case.rows:
        name = [(row.provider, "text"), (row.allocator, "text")]
        if row.kind != OK:
            lines.append([*name, (row.status, "text"), *[("", "")] * (len(HEAD) - 3)])
        else:
            numbers = (
                cell(row.median_ms),
                f"{cell(row.p20_ms)} to {cell(row.p80_ms)}",
                row.timing,
                cell(row.host_ms),
                cell(digest.memory_mb(row)),
                cell(row.gb_per_s),
                cell(row.gflop_per_s),
                "" if row.of_floor is None else f"{row.of_floor:.1%} ({digest.floor_name(row)})",
                cell(row.max_error),
                cell(row.turned),
            )
            lines.append([*name, *((number, "") for number in numbers)])
        classes.append("ours" if row.provider in digest.OURS else "")
    head = [(text, "text" if place < 2 else "") for place, text in enumerate(HEAD)]
    return markup.table(head, lines, classes)


def _growth(rows: Sequence[Row], charts: dict[str, str]) -> str:
    figures = []
    for series in digest.growth(rows):
        for value, what in (("ms", "time"), ("MB", "memory")):
            if not any(series.points(provider, value) for provider in series.providers):
                continue
            plot = ""
            if not plots.why_not():
                name = f"growth-{series.name}-{what}"
                charts[name] = plots.growth_lines(series, value)
                plot = plots.inline(charts[name])
            table = markup.folded(_growth_table(series, value), opened=not plot)
            caption = f"{series.title}: {what} over {series.axis}, {series.span}"
            figures.append(markup.figure(caption, plot, table))
    return markup.grid(figures)


def _growth_table(series: Series, value: str) -> str:
    """A line for each size, a column for each provider."""
    columns = {f"{name}, {value}": dict(series.points(name, value)) for name in series.providers}
    if value == "ms":
        columns["floor, ms"] = dict(series.floor())
    sizes = sorted({size for column in columns.values() for size in column})
    lines = [
        [(f"{size:,}", ""), *((cell(column.get(size)), "") for column in columns.values())]
        for size in sizes
    ]
    return markup.table([(series.axis, ""), *((name, "") for name in columns)], lines)


def _missing(rows: Sequence[Row]) -> str:
    """Who has no number, why, and in which cases."""
    tables = []
    for kind in (FAILED, SKIPPED):
        found = digest.missing(rows, kind)
        lines = []
        for (provider, reason), cases in found.items():
            where = "; ".join(cases) if len(cases) <= 3 else f"{len(cases)} cases"
            lines.append([(provider, "text"), (reason, "text long"), (where, "text long")])
        if lines:
            head = [(text, "text") for text in (kind, "why", "in")]
            tables.append(markup.table(head, lines))
    return "\n".join(tables)


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))
