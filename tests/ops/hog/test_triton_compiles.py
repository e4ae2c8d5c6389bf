"""The Triton kernel through the real compiler, down to machine code for a GPU that is not here.

The interpreter accepts what the compiler does not. In a process of its own: there Triton must not
be in its interpreter's mode.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ssl_fast.ops.hog.triton_kernels import _hog_kernel as kernel, tl

pixel, masked, listed, side, cells, nbins = eval(sys.argv[1])
wide = pixel == "*fp64"
value = "*fp64" if wide else "*fp32"
constants = dict(
    MASKED=masked, LISTED=listed, COMPUTE=tl.float64 if wide else tl.float32,
    INT=tl.int64 if wide else tl.int32, NBINS=nbins, SIDE=side, CELLS=cells,
    EPS=1e-10, BINS=triton.next_power_of_2(nbins),
)
pointers = dict(
    images=pixel, out=value, cotangents=value, gaussian=value,
    mask="*u8" if masked else value, ids="*i64" if listed else value,
)
names = kernel.arg_names
signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
source = ASTSource(
    fn=kernel, signature=signature, constexprs={(names.index(n),): v for n, v in constants.items()}
)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
print(len(compiled.asm["cubin"]))
"""
CASES = [
    ("*u8", False, False, 8, 16, 9),
    ("*fp32", False, True, 8, 16, 9),
    ("*bf16", True, False, 8, 16, 12),
    ("*fp16", False, False, 32, 1, 180),
    ("*fp64", False, True, 1, 256, 1),
]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="pip install triton")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiles_for_hopper(case: tuple[object, ...], tmp_path: object) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, repr(case)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert int(result.stdout) > 1000
