"""Peak memory of a call beyond its inputs and outputs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from .case import bytes_of

MB = 1e6


def peak_extra_mb(function: Callable[[], Any], device: str) -> float:
    """Peak of what torch's allocator handed out during the call, less the outputs, in MB."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        outputs = bytes_of(function())
        torch.cuda.synchronize()
        return max(0.0, (torch.cuda.max_memory_allocated() - before - outputs) / MB)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    held = peak = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return max(0.0, (peak - bytes_of(result)) / MB)


def resident_extra_mb(function: Callable[[], Any]) -> float | None:
    """Growth of the process's resident memory at its highest, less the outputs, in MB.

    Sees what torch's allocator does not: workspaces of our own kernels and of other libraries, and
    the stacks of threads. Only on Linux; None where the kernel does not offer it. Good to about
    half a MB.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed blocks go back, to be counted when used again
        reset.write_text("5")  # the high-water mark falls to what is resident now
        before = _field(status, "VmRSS")
        outputs = bytes_of(function())
        return max(0.0, (_field(status, "VmHWM") - before - outputs) / MB)
    except (OSError, AttributeError, StopIteration):
        return None


def _field(status: Path, name: str) -> int:
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024
