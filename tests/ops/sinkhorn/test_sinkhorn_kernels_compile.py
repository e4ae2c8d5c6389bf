"""Sinkhorn's Triton kernels through the real compiler, for a GPU that is not here."""

from __future__ import annotations

import importlib.util

import pytest

from ssl_fast._testing.hopper import compile_for_hopper

NARROW = "COMPUTE=tl.float32, LARGEST=3e38"
WIDE = "COMPUTE=tl.float64, LARGEST=1e308"
TILE = "ROWS=16, COLUMNS=256"
SUMS = 'epsilon="*fp32", maxima="*fp32", sums="*fp32"'
ROWS = 'least="*fp32", largest="*fp32", scales="*fp32"'
CASES = f"""[
    ("columns_kernel", dict(scores="*bf16", epsilon="*fp32", largest="*fp32", sums="*fp32"),
     dict(UNIT=8, {NARROW}, {TILE})),
    ("columns_kernel", dict(scores="*fp64", epsilon="*fp64", largest="*fp64", sums="*fp64"),
     dict(UNIT=1, {WIDE}, {TILE})),
    ("join_kernel", dict(largest="*fp32", totals="*fp32", {SUMS}),
     dict(MAXIMA=True, PARTS=64, COLUMNS=32, {NARROW})),
    ("short_rows_kernel", dict(scores="*fp32", out="*fp32", {SUMS}),
     dict(ASSIGN=False, UNIT=4, LEAST=1e-30, ROWS=1, COLUMNS=4096, {NARROW})),
    ("short_rows_kernel", dict(scores="*fp16", out="*fp32", {SUMS}),
     dict(ASSIGN=True, UNIT=1, LEAST=1e-30, ROWS=8, COLUMNS=64, {NARROW})),
    ("row_sums_kernel", dict(scores="*fp32", {SUMS}, {ROWS}),
     dict(UNIT=4, LEAST=1e-30, ROWS=4, COLUMNS=1024, {NARROW})),
    ("long_rows_kernel", dict(scores="*fp32", out="*fp32", {SUMS}, {ROWS}),
     dict(ASSIGN=True, UNIT=4, LEAST=1e-30, {NARROW}, {TILE})),
]"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="pip install triton")
def test_compile_for_hopper(tmp_path: object) -> None:
    compiled = compile_for_hopper("sinkhorn.triton_sweeps", CASES, str(tmp_path))
    assert sum(name.endswith("_kernel") for name in compiled) == 7
