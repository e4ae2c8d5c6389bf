"""The curve of a run: its loss, and the accuracy of its features, as a PNG."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .files import write_atomically

POINTS = 4000  # most points that are drawn of a curve: there are fewer pixels than that
ACCURACIES = {"knn": "k-NN", "linear": "linear probe"}


def plot_loss(
    path: str | os.PathLike[str],
    steps: Sequence[int],
    losses: Sequence[float],
    evaluations: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Writes a PNG of the loss over the steps, raw and smoothed, with probe accuracies.

    The loss axis is logarithmic where all losses are above 0 and the smoothed ones differ by more
    than a factor of 10. What is not finite is left out.

    Args:
        path: the file to write, in one step; its folder exists.
        steps, losses: equally many, one or more, steps ascending.
        evaluations: records with "step" and "knn" or "linear", accuracies from 0 to 1.

    Raises:
        ValueError: for unequal numbers, or none.
    """
    # Figure without pyplot: no window system is looked for, and no state outlives the call.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    x, y = np.asarray(steps, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"steps and losses have shapes {x.shape} and {y.shape}; expected [n], [n]")
    y = np.where(np.isfinite(y), y, np.nan)

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    thin = slice(None, None, -(-len(x) // POINTS))
    # A marker for each point where there are few, since one alone makes no line.
    marker = "." if len(x) < 30 else None
    axes.plot(x[thin], y[thin], color="tab:blue", alpha=0.3, linewidth=0.8, marker=marker)
    mean = smooth(y)
    axes.plot(x[thin], mean[thin], color="tab:blue", linewidth=1.8, marker=marker, label="loss")
    known = np.isfinite(y)
    if known.any() and y[known].min() > 0 and np.nanmax(mean) > 10 * np.nanmin(mean):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()

    if evaluations:
        right = axes.twinx()
        right.set_ylabel("accuracy")
        right.set_ylim(0, 1.02)
        colours = ("tab:orange", "tab:green")
        for (key, label), colour in zip(ACCURACIES.items(), colours, strict=True):
            points = [(e["step"], e[key]) for e in evaluations if key in e]
            if points:
                right.plot(*zip(*points, strict=True), color=colour, marker="o", label=label)
        more = right.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    with write_atomically(path) as file:
        figure.savefig(file, format="png")


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean of a window around each value, a 50th of [n] wide; NaN counts for nothing.

    The window is cut off at the ends. NaN where all of it is.
    """
    n = len(values)
    first = np.maximum(np.arange(n) - n // 100, 0)
    last = np.minimum(np.arange(n) + n // 100 + 1, n)
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    with np.errstate(invalid="ignore"):
        return (total[last] - total[first]) / (count[last] - count[first])
