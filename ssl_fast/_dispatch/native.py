"""The compiled libraries: where they are, whether they load, and if not, why.

Nothing here compiles anything, creates a CUDA context or fails: without compiled kernels the
package works on its references, and says so when asked.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import torch

PACKAGE = Path(__file__).resolve().parent.parent
ADVICE = "install a C++ compiler, torch>=2.10, cmake, ninja and pybind11, then run "
ADVICE += "`pip install --no-build-isolation ssl_fast`"


class NativeLibrary:
    """One shared library of operators.

    Attributes:
        handle: the loaded library, or None.
        reason: why there is no handle; empty if there is one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle: ctypes.CDLL | None = None
        self.reason = ""
        if not path.is_file():
            self.reason = f"{path.name} was not built: {ADVICE}"
            return
        try:
            torch.ops.load_library(path)
            self.handle = ctypes.CDLL(str(path))
        except OSError as error:
            self.reason = f"{path.name} does not load: {error}"


@functools.cache
def ops() -> NativeLibrary:
    """The operators for CPU and CUDA, loaded at the first call."""
    library = NativeLibrary(PACKAGE / "_ops.so")
    if library.handle is not None:
        library.handle.ssl_fast_active_isa.restype = ctypes.c_char_p
        # A wish that cannot be met must not pass in silence.
        if wanted := os.environ.get("SSL_FAST_ISA"):
            force_instruction_set(wanted, library)
    return library


@functools.cache
def emulated() -> NativeLibrary:
    """The CUDA kernels compiled for the CPU; for tests, so loaded only when asked for."""
    return NativeLibrary(
        Path(os.environ.get("SSL_FAST_EMULATED_LIBRARY", PACKAGE / "_emulated.so"))
    )


def instruction_set() -> str | None:
    """The CPU instruction set in use: "avx512", "avx2", "baseline", or None if nothing is built."""
    library = ops()
    return library.handle.ssl_fast_active_isa().decode() if library.handle else None


def force_instruction_set(name: str, library: NativeLibrary | None = None) -> None:
    """Uses the CPU kernels of `name` from now on, in the whole process.

    Raises:
        ValueError: if the set is unknown, was not built, or this processor lacks it.
    """
    library = library or ops()
    if library.handle is None:
        raise ValueError(f"instruction set {name!r} cannot be used: {library.reason}")
    if library.handle.ssl_fast_force_isa(name.encode()) != 0:
        accepted = "'baseline', 'avx2' and 'avx512', as far as the processor has them"
        raise ValueError(f"instruction set {name!r} is not to be had here; accepted are {accepted}")


@functools.cache
def cuda_reason() -> str:
    """Why the compiled CUDA kernels cannot run here; empty if they can."""
    library = ops()
    if library.handle is None:
        return library.reason
    if not hasattr(library.handle, "ssl_fast_cuda_probe"):
        return "the kernels were built without nvcc: put it on PATH or set CUDACXX, and reinstall"
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if not library.handle.ssl_fast_finds_cuda_stream():
        return "this torch does not export its current CUDA stream"
    message = ctypes.create_string_buffer(256)
    if library.handle.ssl_fast_cuda_probe(message, len(message)) != 0:
        return message.value.decode()
    return ""
