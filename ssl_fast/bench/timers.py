"""Clocks for the CPU and for CUDA, inputs that are cold, and quantiles."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from .case import Inputs, bytes_of

# Launches shorter than this are replayed from a CUDA graph: else Python's launch would be timed.
# Twice 50 us and more, because an estimate by events contains that launch.
GRAPH_BELOW_MS = 0.2
GRAPH_CALLS = 10
COLD_BUDGET = 2**30
DEFAULT_CACHE = 32 * 2**20


class Clock(Protocol):
    """Measures how long a function takes."""

    name: str

    def elapsed_ms(self, function: Callable[[], Any]) -> float:
        """Calls `function` once; milliseconds until its work is done."""


class CpuClock:
    """Wall-clock time."""

    name = "clock"

    def elapsed_ms(self, function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - start)


class CudaClock:
    """Time between two events in the current stream."""

    name = "events"

    def elapsed_ms(self, function: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def clock_for(device: str) -> Clock:
    return CudaClock() if device == "cuda" else CpuClock()


def last_cache_bytes(device: str) -> int:
    """Size of the cache that inputs must not be found in."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    sizes = [DEFAULT_CACHE]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text.endswith("K"):
            sizes.append(int(text[:-1]) * 2**10)
    return max(sizes)


def cold_inputs(make_inputs: Callable[[str, int], Inputs], device: str) -> list[Inputs]:
    """As many different inputs as make the last cache forget the first by the time it returns."""
    first = make_inputs(device, 0)
    size = max(1, bytes_of(first))
    wanted = 1 + -(-2 * last_cache_bytes(device) // size)
    count = max(2, min(wanted, COLD_BUDGET // size, 64))
    return [first, *(make_inputs(device, seed) for seed in range(1, count))]


def graph_of(
    function: Callable[..., Any], rotation: Sequence[Inputs]
) -> tuple[Callable[[], Any], int]:
    """A CUDA graph that calls `function` on one input after the other: (replay, number of calls).

    Raises:
        RuntimeError: if the function does what a graph cannot hold, such as a synchronisation.
    """
    calls = max(GRAPH_CALLS, len(rotation))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for inputs in itertools.islice(itertools.cycle(rotation), calls):
            function(*inputs)
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay, calls


def quantiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Median, 20th and 80th percentile, linear between samples."""
    positions = torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)
    median, low, high = torch.tensor(samples, dtype=torch.float64).quantile(positions).tolist()
    return median, low, high
