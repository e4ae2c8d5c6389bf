"""Where and with what a number was measured; the allocator; other load."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

from .._compat.allocator import keep_freed_memory
from .._version import __version__
from .case import Skipped

ROOT = Path(__file__).resolve().parents[2]
ALLOCATORS = ("default", "tuned")
BUSY_WARNING = 0.1


def use_allocator(name: str) -> None:
    """Sets glibc's thresholds, before anything large is allocated.

    Tuned, freed memory stays with the process.

    Raises:
        Skipped: where the C library has no such thresholds.
    """
    if name == "tuned" and (why_not := keep_freed_memory()):
        raise Skipped(f"{why_not}: only the default allocator is measured")


def busy_share(device: str, seconds: float = 0.25) -> float | None:
    """Share of the GPU, or of all processors, that is at work now; None where nobody tells."""
    try:
        if device == "cuda":
            query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            result = subprocess.run(query, capture_output=True, text=True, check=True)
            return int(result.stdout.splitlines()[torch.cuda.current_device()]) / 100
        before = _ticks()
        time.sleep(seconds)
        after = _ticks()
    except (OSError, ValueError, IndexError, subprocess.CalledProcessError):
        return None
    total = sum(after) - sum(before)
    idle = sum(after[3:5]) - sum(before[3:5])  # idle, waiting for a disk
    return (total - idle) / total if total else None


def _ticks() -> list[int]:
    first = Path("/proc/stat").read_text().splitlines()[0]
    return [int(field) for field in first.split()[1:9]]


def load_warning(busy: float | None, device: str) -> str:
    """One line if other work would disturb the measurement, else empty."""
    if busy is None or busy <= BUSY_WARNING:
        return ""
    what = "the GPU" if device == "cuda" else f"the {os.cpu_count()} processors"
    load = f"load average {os.getloadavg()[0]:.1f}"
    return f"warning: other work takes {busy:.0%} of {what} ({load}): the times are not clean"


def name_of(device: str) -> str:
    """The processor's name, not the host's: what others can compare with."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} processors"


def slug(name: str) -> str:
    """A name for files: "AMD EPYC, 2 processors" is "amd-epyc-2-cores"."""
    plain = re.sub(r"\((r|tm|c)\)|\bcpu\b|@ *[0-9.]+ *ghz", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("processors", "cores")).strip("-")


def commit() -> str:
    """Short hash of the checkout, with "+" if files differ from it; empty without git.

    SSL_FAST_COMMIT says it for a copy of a checkout that has no git.
    """
    if told := os.environ.get("SSL_FAST_COMMIT"):
        return told

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def today() -> str:
    """The date in UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d")


def versions(packages: tuple[str, ...]) -> str:
    """ "ssl_fast 0.1.0, torch 2.13.0, python 3.12.1", and of `packages` those installed."""
    found = {"ssl_fast": __version__, "torch": torch.__version__}
    found["python"] = platform.python_version()
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(f"{name} {version}" for name, version in found.items())
