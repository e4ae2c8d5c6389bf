"""Builds the native libraries with CMake and Ninja. Never imports torch.

The torch that is installed is used: its headers are found on disk, which works under pip's build
isolation too (that hides the target environment from imports only).
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
HOW_TO_GET_KERNELS = (
    "ssl_fast: {why}, so the pure Python package is installed; for the compiled kernels install "
    "torch>=2.10, then run `pip install --no-build-isolation --force-reinstall --no-deps ssl_fast`"
)


def find_torch():
    """The folder of an installed torch with stable-ABI headers, or None."""
    spec = importlib.util.find_spec("torch")
    folders = [Path(spec.origin).parent] if spec and spec.origin else []
    folders += [Path(sysconfig.get_paths()[key]) / "torch" for key in ("purelib", "platlib")]
    has_headers = "include/torch/headeronly/util/shim_utils.h"
    for folder in folders:
        if (folder / has_headers).is_file() and "parallel_for" in stable_ops(folder):
            return folder
    return None


def stable_ops(torch_folder):
    """The text that tells torch 2.10 from older ones, whose headers lack parts that we use."""
    path = torch_folder / "include/torch/csrc/stable/ops.h"
    return path.read_text() if path.is_file() else ""


class CMakeBuild(build_ext):
    """One CMake build makes all libraries; setuptools knows them by the first one's name."""

    def build_extension(self, ext):
        import pybind11

        editable = self.inplace or self.editable_mode
        # An editable install keeps its objects, so that the next one compiles only what changed.
        kept = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        build = kept if editable else Path(self.build_temp).resolve() / "cmake"
        targets = [Path(self.get_ext_fullpath(ext.name)).resolve().parent]
        if editable:
            targets.append(ROOT / "ssl_fast")
        configure = [
            # Fresh: a cache may name tools of a build environment that is gone.
            *("cmake", "--fresh", "-S", ROOT, "-B", build, "-G", "Ninja"),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DPYBIND11_FINDPYTHON=ON",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DTORCH_DIR={find_torch()}",
        ]
        jobs = os.environ.get("MAX_JOBS")
        run(*configure)
        run("cmake", "--build", build, *(["--parallel", jobs] if jobs else []))
        for target in targets:
            run("cmake", "--install", build, "--prefix", target)


def run(*command):
    subprocess.run([str(part) for part in command], check=True)


def extensions():
    if sys.platform == "win32":
        print(HOW_TO_GET_KERNELS.format(why="there are no kernels for Windows"), file=sys.stderr)
        return []
    if find_torch() is None:
        print(HOW_TO_GET_KERNELS.format(why="no torch>=2.10 was found"), file=sys.stderr)
        return []
    return [Extension("ssl_fast._host", sources=[])]


setup(ext_modules=extensions(), cmdclass={"build_ext": CMakeBuild})
