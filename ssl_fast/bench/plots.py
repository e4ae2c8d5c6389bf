"""Plots of results as SVG: bars of a case, growth on log-log axes. Needs matplotlib.

The same rows give the same bytes: no date, no random ids. Text stays text.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import digest
from .digest import CaseRows, Series

# Two colours that stand for "whatever the page has": as a file, black on white.
INK, PAPER = "#010203", "#fefdfc"
OURS, THEIRS = "#1a8f6a", "#d9702b"
OTHERS = ("#6c86c4", "#a678b4", "#a08f2f", "#c2607c", "#4f9fb5", "#8a8a8a", "#7d6450")
MARKERS = "os^Dvph<>"
WIDTH = 5.4  # inches
LEAST_MB = 0.1  # what is less is drawn there: nothing, for practical purposes
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


@dataclass(frozen=True)
class Bar:
    """A bar: its value and what it spreads over.

    Attributes:
        label: of the group that it belongs to.
        faint: whether it is the lesser one of its group.
    """

    label: str
    value: float
    low: float
    high: float
    colour: str
    faint: bool = False


def why_not() -> str:
    """Why there are no plots, with the remedy; empty if there are."""
    if importlib.util.find_spec("matplotlib") is None:
        return 'no plots: `pip install "ssl_fast[bench]"` brings matplotlib'
    return ""


def is_ours(provider: str) -> bool:
    return provider in digest.OURS or provider.startswith("ssl_fast")


def colour_of(provider: str, theirs: str, providers: Sequence[str]) -> str:
    """Ours and theirs always look the same; the others take turns."""
    if is_ours(provider):
        return OURS
    if provider == theirs:
        return THEIRS
    others = [name for name in providers if not is_ours(name) and name != theirs]
    return OTHERS[others.index(provider) % len(OTHERS)]


# ---- Bars


def case_bars(case: CaseRows) -> str:
    """The SVG of a case: a bar for each provider and allocator, and the floor."""
    bars = []
    for provider in case.providers:
        colour = colour_of(provider, case.theirs, case.providers)
        for allocator in case.allocators:
            if (row := case.row(provider, allocator)) and row.median_ms:
                faint = len(case.allocators) > 1 and allocator == case.allocators[0]
                low, high = row.p20_ms or row.median_ms, row.p80_ms or row.median_ms
                bars.append(Bar(provider, row.median_ms, low, high, colour, faint))
    floors = [
        (floor, f"floor: {_number(floor)} ms", len(case.allocators) > 1 and place == 0)
        for place, allocator in enumerate(case.allocators)
        if (floor := case.floor_ms(allocator))
    ]
    title = f"{case.op}: {case.case}, {case.dtype}"
    return bars_svg(bars, "ms", title, case.name, floors)


def bars_svg(
    bars: Sequence[Bar],
    unit: str,
    title: str,
    salt: str,
    floors: Sequence[tuple[float, str, bool]] = (),
) -> str:
    """Horizontal bars with whiskers; on a log axis if they differ by over ten times.

    Args:
        salt: makes the ids of one plot others than those of the next on the same page.
        floors: lines across: where, what they are, whether faint.
    """
    import matplotlib

    labels = list(dict.fromkeys(bar.label for bar in bars))
    lanes = {label: [bar for bar in bars if bar.label == label] for label in labels}
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure, axes = _figure(0.75 + 0.34 * len(labels) + 0.05 * len(bars))
        ends = [bar.value for bar in bars] + [where for where, _, _ in floors]
        log = max(ends) > 10 * min(ends)
        if log:
            axes.set_xscale("log")
            axes.set_xlim(min(ends) / 2, max(max(b.high for b in bars), *ends) * 4)
        else:
            axes.set_xlim(0, max(max(b.high for b in bars), *ends) * 1.22)
        for place, label in enumerate(labels):
            height = 0.8 / len(lanes[label])
            for index, bar in enumerate(lanes[label]):
                y = place - 0.4 + (index + 0.5) * height
                _bar(axes, bar, y, height * 0.92)
        for where, _, faint in floors:
            axes.axvline(where, color=INK, linestyle="--", linewidth=1, alpha=0.4 if faint else 0.9)
        axes.xaxis.set_major_formatter(lambda value, _: _number(value))
        axes.minorticks_off()
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"{unit}, log scale" if log else unit)
        if floors:
            axes.annotate(
                floors[-1][1], (floors[-1][0], 1), (2, 2), xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
        return _svg(figure, title)


def _bar(axes: Any, bar: Bar, y: float, height: float) -> None:
    alpha = 0.45 if bar.faint else 1.0
    left = axes.get_xlim()[0]
    axes.barh(y, bar.value - left, height, left, color=bar.colour, alpha=alpha)
    axes.plot([bar.low, bar.high], [y, y], color=INK, linewidth=1, alpha=0.8)
    # Its own y, in data: bars of different lanes never share a text's place.
    axes.annotate(
        _number(bar.value), (max(bar.value, bar.high), y), (4, 0), textcoords="offset points",
        verticalalignment="center", fontsize=8, alpha=0.75 if bar.faint else 1.0,
    )  # fmt: skip


# ---- Growth


def growth_lines(series: Series, value: str) -> str:
    """The SVG of a series: a line for each provider, and the floor of times.

    Args:
        value: "ms", or "MB" of memory beyond inputs and outputs.
    """
    import matplotlib.ticker

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"{series.name} {value}"}):
        figure, axes = _figure(3.6)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        providers = series.providers
        for index, provider in enumerate(providers):
            points = series.points(provider, value)
            if points:
                sizes, values = zip(*points, strict=True)
                if value == "MB":
                    values = tuple(max(LEAST_MB, y) for y in values)
                ours = is_ours(provider)
                axes.plot(
                    sizes, values, label=provider, marker=MARKERS[index % len(MARKERS)],
                    color=colour_of(provider, series.theirs, providers), markersize=4,
                    linewidth=2.2 if ours else 1.3, zorder=3 if ours else 2,
                )  # fmt: skip
        if value == "ms" and (floor := series.floor()):
            axes.plot(
                *zip(*floor, strict=True), color=INK, linestyle="--", linewidth=1, label="floor"
            )
        ticks = sorted({row.size for row in series.rows})
        axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
        low, high = axes.get_ylim()
        if high < 100 * low:  # powers of ten alone would be one mark or none
            axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: _number(value))
        axes.minorticks_off()
        axes.set_xlabel(series.axis)
        axes.set_ylabel("ms" if value == "ms" else "MB beyond inputs and outputs")
        axes.grid(color=INK, alpha=0.12, linewidth=0.6)
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=8
        )
        return _svg(figure, f"{series.title}: {'time' if value == 'ms' else 'memory'}")


# ---- SVG


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Any, title: str) -> str:
    """The figure as an SVG document without metadata, doctype, or ids that nobody refers to."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r"^<\?xml.*?\?>\s*|<!DOCTYPE.*?>\s*|<!--.*?-->\s*", "", text, flags=re.S)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text)
    text = re.sub(r"\n\s+", "\n", text)
    text = re.sub(r"<[^>]*>", _short, text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*?sans-serif", "system-ui, sans-serif", text)
    escaped = title.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"(<svg[^>]*>)", lambda m: f"{m[1]}\n <title>{escaped}</title>", text, count=1)


def _short(tag: re.Match[str]) -> str:
    """A tag with coordinates to a hundredth of a point."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0])


def inline(svg: str) -> str:
    """For inside a page: its colours, its width, no namespaces (an HTML parser knows them)."""
    head = re.search(r"<svg[^>]*>", svg)
    assert head is not None
    view = re.search(r'viewBox="[^"]*"', head[0])
    opening = f'<svg role="img" {view[0] if view else ""}>'
    text = svg[head.end() :].replace("xlink:href", "href")
    text = re.sub(r"<style.*?</style>\s*", "", text, flags=re.S)  # it would hold for all the page
    return opening + text.replace(INK, "currentColor").replace(PAPER, "none").rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
