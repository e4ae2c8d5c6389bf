"""`ssl-fast doctor`: what is installed here, who serves each op and why not another, what to do.

Never fails for what is missing: that is what it is asked about. Creates no CUDA context but the one
that reading a GPU's properties needs.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from ._dispatch import OPS, explain, native
from ._version import __version__

VARIABLES = ("SSL_FAST_BACKEND", "SSL_FAST_ISA", "TRITON_INTERPRET", "OMP_NUM_THREADS")
IN_PLACE = "everything is in place"


def report() -> dict[str, Any]:
    """All facts as a dict that JSON can hold.

    Returns:
        sections "versions", "machine", "gpus", "build", "environment", "owners", each a dict (with
        the one key "error" where looking failed), and "advice", a list of lines: empty if nothing
        is missing.
    """
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "versions": _versions,
        "machine": _machine,
        "gpus": _gpus,
        "build": _build,
        "environment": lambda: {name: os.environ.get(name) for name in VARIABLES},
        "owners": _owners,
    }
    found: dict[str, Any] = {name: _guarded(section) for name, section in sections.items()}
    found["advice"] = list(advice(found))
    return found


def _guarded(section: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return section()
    except Exception as error:  # a broken machine is what people bring to a doctor
        return {"error": f"{type(error).__name__}: {error}"}


def _version_of(module: str) -> str | None:
    """The version of a module, None if it is not there, or why it does not import."""
    try:
        return str(importlib.import_module(module).__version__)
    except ModuleNotFoundError as error:
        return None if error.name == module else f"does not import: {error}"
    except Exception as error:
        return f"does not import: {error}"


def _installed(package: str) -> str | None:
    """The version of a package that is installed, whether or not it imports."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, Any]:
    return {
        "ssl_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "triton": _version_of("triton"),
        "numpy": _version_of("numpy"),
        # Of the extra `train`; not imported, which takes seconds.
        "timm": _installed("timm"),
        "lightning": _installed("lightning"),
    }


def _machine() -> dict[str, Any]:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: the cores that are ours
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": native.instruction_set(),
    }


def _driver_cuda() -> str | None:
    """The newest CUDA that the NVIDIA driver supports. Asks the driver itself: no context."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        version = ctypes.c_int()
        if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _gpus() -> dict[str, Any]:
    devices = []
    with warnings.catch_warnings(record=True) as caught:  # torch warns of a driver that is too old
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for index in range(count):
            properties = torch.cuda.get_device_properties(index)
            capability = f"{properties.major}.{properties.minor}"
            gib = round(properties.total_memory / 2**30, 1)
            devices.append(
                {"name": properties.name, "compute_capability": capability, "memory_gib": gib}
            )
    said = [str(warning.message).splitlines()[0] for warning in caught]
    return {"driver_cuda": _driver_cuda(), "devices": devices, "warnings": said}


def _build() -> dict[str, Any]:
    """What `_host` says of the build; kernels and cuda_kernels are "" or why they cannot run."""
    state = {"kernels": native.ops().reason, "cuda_kernels": native.cuda_reason()}
    try:
        return {**state, **importlib.import_module("ssl_fast._host").build_info()}
    except ModuleNotFoundError:
        return {**state, "facts": "none: ssl_fast._host was not built for this Python"}
    except ImportError as error:
        return {**state, "facts": f"none: ssl_fast._host does not load: {error}"}


def _owners() -> dict[str, Any]:
    """By device: for each op who serves, whether forced, and why others cannot."""
    owners: dict[str, Any] = {}
    for device in ("cpu", "cuda") if torch.version.cuda else ("cpu",):
        owners[device] = {}
        for op in sorted(OPS):
            found = explain(op, device=device)
            # Without the op's name, so that ops with the same reasons stand together.
            cannot = {
                name: why_not.removeprefix(f"{op} ")
                for name, why_not in found.reasons.items()
                if why_not
            }
            owners[device][op] = {"owner": found.owner, "forced": found.forced, "cannot": cannot}
    return owners


def advice(found: dict[str, Any]) -> Iterable[str]:
    """One line for each thing that is missing in the sections of `report`."""
    for name, section in found.items():
        if "error" in section:
            yield f"{name} could not be found out: {section['error']}"
    versions, build, gpus = found["versions"], found["build"], found["gpus"]
    has_gpu = bool(gpus.get("devices"))
    if build.get("kernels"):
        windows = sys.platform == "win32"
        why = "there are none for Windows; Linux and macOS have them" if windows else None
        yield f"compiled kernels are missing, ops are slow: {why or build['kernels']}"
    elif has_gpu and build.get("cuda_kernels"):
        yield f"compiled CUDA kernels cannot run: {build['cuda_kernels']}"
    for module in ("numpy", "triton"):
        version = versions.get(module, "")
        # Triton is nothing to a CPU torch; a torch with CUDA brings it on Linux only.
        wanted = module == "numpy" or (versions.get("torch_cuda") and sys.platform == "linux")
        if version is None and wanted:
            yield f"{module} is not installed: `pip install {module}`"
        elif version and version.startswith("does not import"):
            yield f"{module} {version}"
    if (driver := gpus.get("driver_cuda")) and not has_gpu and not gpus.get("error"):
        if versions.get("torch_cuda"):
            said = f" ({gpus['warnings'][0]})" if gpus.get("warnings") else ""
            yield f"torch sees no GPU, though there is an NVIDIA driver for CUDA {driver}{said}"
        else:
            yield (
                "this torch is a CPU build, though there is an NVIDIA driver: install a torch for "
                f"CUDA {driver} or older"
            )
    if found["environment"].get("TRITON_INTERPRET") == "1":
        yield "TRITON_INTERPRET=1 is for tests, its kernels are very slow: unset it to train"
    yield from _refusals(found["owners"])


def _refusals(owners: dict[str, Any]) -> Iterable[str]:
    """A forced backend that cannot serve: its calls raise. Ops with one reason share a line."""
    refused: dict[tuple[str, str, str], list[str]] = {}
    for device, ops in owners.items() if "error" not in owners else ():
        for op, entry in ops.items():
            if why_not := entry["cannot"].get(entry["owner"]):
                refused.setdefault((entry["owner"], device, why_not), []).append(op)
    for (owner, device, why_not), names in refused.items():
        yield f"{owner} is forced and cannot serve {', '.join(names)} on {device}: {why_not}"


def render(found: dict[str, Any]) -> str:
    """The report as text."""
    versions = dict(found["versions"])
    if "torch" in versions:
        cuda = versions.pop("torch_cuda")
        versions["torch"] += f" (CUDA {cuda})" if cuda else " (CPU build)"
    build = dict(found["build"])
    for name in {"kernels", "cuda_kernels"} & build.keys():
        build[name] = f"not in use: {build[name]}" if build[name] else "in use"
    lines = [
        *("versions", *_rows(versions, "not installed")),
        *("machine", *_rows(found["machine"], "none: nothing compiled")),
        *("GPUs", *_gpu_lines(found["gpus"])),
        *("build", *_rows(build, "none")),
        *("environment", *_rows(found["environment"], "not set")),
        *("who serves", *_owner_lines(found["owners"])),
        *("advice", *(f"  {line}" for line in found["advice"] or [IN_PLACE])),
    ]
    return "\n".join(lines)


def _rows(section: dict[str, Any], absent: str) -> Iterable[str]:
    for name, value in section.items():
        yield f"  {name:<20}{absent if value in (None, '') else value}"


def _gpu_lines(gpus: dict[str, Any]) -> Iterable[str]:
    if "error" in gpus:
        yield from _rows(gpus, "")
        return
    for index, gpu in enumerate(gpus["devices"]):
        capability, memory = gpu["compute_capability"], gpu["memory_gib"]
        yield f"  {index}: {gpu['name']}, compute capability {capability}, {memory} GiB"
    if not gpus["devices"]:
        yield "  none that torch can use"
    yield from _rows({"driver_cuda": gpus["driver_cuda"]}, "no NVIDIA driver")


def _owner_lines(owners: dict[str, Any]) -> Iterable[str]:
    """Ops with the same owner for the same reasons share their lines."""
    if "error" in owners:
        yield from _rows(owners, "")
        return
    for device, ops in owners.items():
        groups: dict[tuple[Any, ...], list[str]] = {}
        for op, entry in ops.items():
            key = (entry["owner"], entry["forced"], tuple(entry["cannot"].items()))
            groups.setdefault(key, []).append(op)
        for (owner, forced, cannot), names in groups.items():
            yield f"  {device}: {owner}{' (forced)' if forced else ''} for {', '.join(names)}"
            yield from (f"      {name} cannot: {why_not}" for name, why_not in cannot)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, 0 also where something is missing."""
    parser = argparse.ArgumentParser(
        prog="ssl-fast doctor", description="What is installed here, and which kernels serve."
    )
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    options = parser.parse_args(argv)
    found = report()
    print(json.dumps(found, indent=2) if options.json else render(found))
    return 0
