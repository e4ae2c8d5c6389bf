"""The Triton kernels of the token ops through the real compiler, for a GPU that is not here."""

from __future__ import annotations

import importlib.util

import pytest

from ssl_fast._testing.hopper import compile_for_hopper

ROWS = "dict(WIDE=False, ROWS=2, COLUMNS=1024"
LONG = "dict(WIDE=True, ROWS=2, COLUMNS=1024"
PATCHES = "CHANNELS=3, PATCH_H=16, PATCH_W=8"
CASES = f"""[
    ("_gather_kernel", dict(x="*bf16", ids="*i64", out="*bf16"), {ROWS})),
    ("_sum_kernel", dict(grad="*fp32", ids="*i64", out="*bf16"),
     dict(COMPUTE=tl.float32, IDS=64, COLUMNS=1024)),
    ("_sum_kernel", dict(grad="*fp64", ids="*i64", out="*fp64"),
     dict(COMPUTE=tl.float64, IDS=1024, COLUMNS=128)),
    ("_restore_kernel", dict(x="*bf16", ids="*i64", mask_token="*fp32", pos="*fp32", out="*fp32"),
     {ROWS}, COMPUTE=tl.float32, POSITIONS=True)),
    ("_restore_kernel", dict(x="*fp16", ids="*i64", mask_token="*fp16", pos="*fp16", out="*fp16"),
     {LONG}, COMPUTE=tl.float32, POSITIONS=False)),
    ("_parameters_kernel", dict(grad="*bf16", ids="*i64", pos="*bf16", partial="*fp32"),
     dict(COMPUTE=tl.float32, POS=True, TOKEN=True, GROUP=32, COLUMNS=128)),
    ("_positions_kernel", dict(tokens="*bf16", pos="*fp32", ids="*i64", out="*fp32"),
     {ROWS}, COMPUTE=tl.float32)),
    ("_patches_kernel", dict(images="*u8", ids="*i64", mean="*fp32", std="*fp32", out="*bf16"),
     dict({PATCHES}, COMPUTE=tl.float32, NORMALISED=True, WIDE=False, PIXELS=512)),
    ("_patches_kernel", dict(images="*fp64", ids="*i64", mean="*fp64", std="*fp64", out="*fp64"),
     dict({PATCHES}, COMPUTE=tl.float64, NORMALISED=False, WIDE=True, PIXELS=256)),
]"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="pip install triton")
def test_compile_for_hopper(tmp_path: object) -> None:
    compiled = compile_for_hopper("tokens.triton_rows", CASES, str(tmp_path))
    assert sum(name.endswith("_kernel") for name in compiled) == 9
