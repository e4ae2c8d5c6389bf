"""Clocks for the CPU and for CUDA, inputs that are cold, and quantiles."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from .case import Inputs, bytes_of, tensors_of

# Calls shorter than this are replayed from a CUDA graph: else Python and the launches would be
# timed, which a training step hides behind the GPU's work; they have a column of their own. In
# longer calls they no longer show, and a graph would keep what they allocate.
GRAPH_BELOW_MS = 20.0
GRAPH_CALLS = 10
GRAPH_MS = 40.0  # of one replay, but two calls at least
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


def host_ms(function: Callable[[], Any], calls: int = 5) -> float:
    """Median of how long a call keeps the CPU busy: until it returns, its work being queued."""
    samples = []
    for _ in range(calls):
        torch.cuda.synchronize()
        samples.append(CpuClock().elapsed_ms(function))
    torch.cuda.synchronize()
    return quantiles(samples)[0]


def can_be_captured(function: Callable[[], Any]) -> bool:
    """Whether a call leaves all its work to the GPU, without waiting for it.

    Asked before a capture, since one that fails leaves torch's generator unusable.
    """
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        return all(tensor.is_cuda for tensor in tensors_of(function()))
    except RuntimeError:
        return False
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def graph_of(
    function: Callable[..., Any], rotation: Sequence[Inputs], estimate: float
) -> tuple[Callable[[], Any], int]:
    """A CUDA graph that calls `function` on one input after the other: (replay, number of calls).

    Args:
        estimate: milliseconds of one call.

    Raises:
        RuntimeError: if the function does what a graph cannot hold, such as a synchronisation.
    """
    calls = max(2, min(max(GRAPH_CALLS, len(rotation)), int(GRAPH_MS / max(estimate, 1e-6))))
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
