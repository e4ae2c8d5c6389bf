"""The Triton kernels of the masked patch loss through the real compiler, for a GPU not here.

In a process of its own: there Triton must not be in its interpreter's mode.
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
from ssl_fast.ops.reconstruction import triton_kernels as kernels

tl = kernels.tl
for name, pointers, constants in eval(sys.argv[1], {"tl": tl}):
    kernel = getattr(kernels, name)
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    source = ASTSource(
        fn=kernel, signature=signature,
        constexprs={(names.index(n),): v for n, v in constants.items()},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert len(compiled.asm["cubin"]) > 1000, name
    print(name)
"""
PLAIN = "HAS_MEAN=False, HAS_STD=False, NORM=True, IMAGE_SHAPED=False, POWER=2"
ALL = "HAS_MEAN=True, HAS_STD=True, NORM=False, IMAGE_SHAPED=True, POWER=1"
NARROW = "COMPUTE=tl.float32, PATCHES=4, ELEMENTS=1024"
SMALL = "COMPUTE=tl.float32, PATCHES=64, ELEMENTS=64"
WIDE = "COMPUTE=tl.float64, PATCHES=1, ELEMENTS=16384"
TABLES = 'mask="*u8", mean="*fp32", std="*fp32"'
GRADIENT = 'masked_patches="*i64"'
CASES = f"""[
    ("_partial_kernel", dict(pred="*bf16", images="*u8", {TABLES}, partials="*fp32"),
     dict({PLAIN}, {NARROW})),
    ("_partial_kernel", dict(pred="*fp32", images="*fp16", {TABLES}, partials="*fp32"),
     dict({ALL}, {SMALL})),
    ("_partial_kernel", dict(pred="*fp64", images="*fp64", {TABLES}, partials="*fp64"),
     dict({PLAIN}, {WIDE})),
    ("_total_kernel", dict(partials="*fp32", out="*fp32"), dict(COMPUTE=tl.float32, BLOCK=1024)),
    ("_total_kernel", dict(partials="*fp64", out="*fp64"), dict(COMPUTE=tl.float64, BLOCK=1024)),
    ("_gradient_kernel",
     dict(pred="*bf16", images="*u8", {TABLES}, grad="*fp32", {GRADIENT}, out="*bf16"),
     dict({PLAIN}, {NARROW})),
    ("_gradient_kernel",
     dict(pred="*fp16", images="*fp64", {TABLES}, grad="*fp64", {GRADIENT}, out="*fp16"),
     dict({ALL}, {WIDE})),
]"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="pip install triton")
def test_compile_for_hopper(tmp_path: object) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, CASES], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("_kernel") == 7
