"""Every CUDA kernel of the package, compiled for the CPU, under AddressSanitizer and UBSan.

In a process of its own: the sanitizer must be loaded before anything else.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def sanitized_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`_emulated.so` with sanitizers."""
    if not (ROOT / "CMakeLists.txt").is_file():
        pytest.skip("runs in a source tree: the kernels' sources are not here")
    # The tools of this environment, be it activated or not.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for tool in ("cmake", "ninja", "g++"):
        if shutil.which(tool, path=path) is None:
            pytest.skip(f"{tool} is not installed")
    pybind11 = pytest.importorskip("pybind11")
    torch_folder = Path(importlib.util.find_spec("torch").origin).parent
    build = tmp_path_factory.mktemp("sanitized")
    environment = {**os.environ, "PATH": path}
    configure = [
        *("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-DSSL_FAST_SANITIZE=ON"),
        f"-DPython_EXECUTABLE={sys.executable}",
        "-DPYBIND11_FINDPYTHON=ON",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DTORCH_DIR={torch_folder}",
    ]
    subprocess.run(list(map(str, configure)), check=True, env=environment)
    subprocess.run(
        ["cmake", "--build", str(build), "--target", "_emulated"], check=True, env=environment
    )
    return build / "_emulated.so"


def test_kernels_are_clean(sanitized_library: Path) -> None:
    runtime = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    result = subprocess.run(
        [sys.executable, "-m", "ssl_fast._testing.run_emulated", "2"],
        env={
            **os.environ,
            "LD_PRELOAD": runtime,
            # Python and torch leak by design at exit; the kernels own no memory.
            "ASAN_OPTIONS": "detect_leaks=0",
            "SSL_FAST_EMULATED_LIBRARY": str(sanitized_library),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert "launches checked" in result.stdout
    assert "runtime error" not in result.stderr
