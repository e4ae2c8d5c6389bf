"""Sinkhorn's Triton kernels through the real compiler, for a GPU that is not here."""

from __future__ import annotations

import importlib.util

import pytest

from ssl_fast._testing.hopper import compile_for_hopper

NARROW = "COMPUTE=tl.float32, COLUMNS=256"
WIDE = "COMPUTE=tl.float64, COLUMNS=256"
ROWS = "ROWS=16, LOWEST=-3e38"
SUMS = 'epsilon="*fp32", maxima="*fp32", sums="*fp32"'
LEAST = 'least="*fp32", out="*fp32"'
CASES = f"""[
    ("_columns_kernel", dict(scores="*bf16", epsilon="*fp32", largest="*fp32", sums="*fp32"),
     dict({NARROW}, {ROWS})),
    ("_columns_kernel", dict(scores="*fp64", epsilon="*fp64", largest="*fp64", sums="*fp64"),
     dict({WIDE}, {ROWS})),
    ("_join_kernel", dict(largest="*fp32", totals="*fp32", {SUMS}), dict({NARROW})),
    ("_rows_kernel", dict(scores="*fp32", {SUMS}, {LEAST}),
     dict(ASSIGN=False, LEAST=1e-30, {NARROW}, {ROWS})),
    ("_rows_kernel", dict(scores="*fp16", {SUMS}, {LEAST}),
     dict(ASSIGN=True, LEAST=1e-30, {NARROW}, {ROWS})),
]"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="pip install triton")
def test_compile_for_hopper(tmp_path: object) -> None:
    compiled = compile_for_hopper("sinkhorn.triton_kernels", CASES, str(tmp_path))
    assert sum(name.endswith("_kernel") for name in compiled) == 5
