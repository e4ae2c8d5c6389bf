"""The Triton kernels through the real compiler, down to machine code for a GPU that is not here.

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
from ssl_fast.ops.masks import triton_blocks, triton_kernels

name, constants, pointers, wide = eval(sys.argv[1])
kernel = getattr(triton_kernels, name, None) or getattr(triton_blocks, name)
names = kernel.arg_names
types = {**pointers, **{n: "i64" for n in wide}}
signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
source = ASTSource(
    fn=kernel, signature=signature, constexprs={(names.index(n),): v for n, v in constants.items()}
)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
print(len(compiled.asm["cubin"]))
"""
IDS = {"seed": "*i64", "seed_at": "*i64", "ids": "*i64"}
RANKS = {**IDS, "noise": "*fp32", "keep": "*i64", "restore": "*i64", "mask": "*fp32"}
BLOCKS = {**IDS, "out": "*u8"}


def block(stream: int, fill: bool, video: bool, ibot: bool, size: int) -> dict[str, object]:
    return {"STREAM": stream, "FILL": fill, "VIDEO": video, "IBOT": ibot, "BLOCK": size}


CASES = [
    ("_random_mask_kernel", {"NOISE": False, "LISTED": False, "BLOCK": 256}, RANKS, ()),
    (
        "_random_mask_kernel",
        {"NOISE": True, "LISTED": False, "BLOCK": 2048},
        {**RANKS, "noise": "*bf16"},
        (),
    ),
    ("_random_mask_kernel", {"NOISE": False, "LISTED": True, "BLOCK": 1, "length": 1}, RANKS, ()),
    (
        "_pack_kernel",
        {"NOISE": False, "LISTED": True, "BLOCK": 1024},
        {**RANKS, "packed": "*i64"},
        (),
    ),
    ("_rank_kernel", {"BLOCK": 1024}, {**RANKS, "packed": "*i64"}, ()),
    ("_block_kernel", block(1, True, False, False, 256), BLOCKS, ()),
    ("_block_kernel", {**block(1, True, False, False, 16), "num_masked": 1}, BLOCKS, ()),
    ("_block_kernel", {**block(3, False, False, True, 256), "samples": 1}, BLOCKS, ("slice_high",)),
    ("_block_kernel", {**block(4, False, True, False, 4096), "min_block": 1}, BLOCKS, ()),
    (
        "_multiblock_kernel",
        {"OVERLAP": False, "BLOCK": 256, "num_contexts": 1, "target_h": 1},
        {**IDS, "targets": "*i64", "contexts": "*u8"},
        (),
    ),
]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="pip install triton")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].strip("_"))
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
