"""Barlow Twins' Triton kernels through the real compiler, for a GPU that is not here."""

from __future__ import annotations

import importlib.util

import pytest

from ssl_fast._testing.hopper import compile_for_hopper

NARROW = "COMPUTE=tl.float32, ROWS=64, COLUMNS=16"
WIDE = "COMPUTE=tl.float64, ROWS=64, COLUMNS=16"
STATISTICS = 'statistics="*fp32", diagonal="*fp32", multiplied="*fp32"'
VIEWS = f'z0="*bf16", z1="*bf16", {STATISTICS}'
WIDE_VIEWS = VIEWS.replace("bf16", "fp64").replace("fp32", "fp64")
SLOPES = 'slope0="*fp32", slope1="*fp32", squares="*fp32", weight="*fp32", losses="*fp32"'
CASES = f"""[
    ("standardise_kernel", dict({VIEWS}, h0="*bf16", h1="*bf16"),
     dict(EPS=1e-5, ROUNDED=True, TWICE=True, {NARROW})),
    ("standardise_kernel", dict({WIDE_VIEWS}, h0="*fp64", h1="*fp64"),
     dict(EPS=1e-5, ROUNDED=False, TWICE=False, {WIDE})),
    ("settle_kernel", dict({VIEWS}, {SLOPES}),
     dict(SQUARED=True, WITH_DIAGONAL=True, FINISH=True, {NARROW})),
    ("settle_kernel", dict({VIEWS}, {SLOPES}),
     dict(SQUARED=False, WITH_DIAGONAL=False, FINISH=False, {NARROW})),
    ("finish_kernel", dict({VIEWS}, {SLOPES}, grad0="*fp32", grad1="*fp32"), dict({NARROW})),
    ("split_kernel", dict(matrix0="*fp32", matrix1="*fp32", out0="*bf16", out1="*bf16"),
     dict(BLOCK=1024)),
    ("round_kernel", dict(panel="*fp32", out="*fp16"), dict(BLOCK=1024)),
]"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="pip install triton")
def test_compile_for_hopper(tmp_path: object) -> None:
    compiled = compile_for_hopper("cross_correlation.triton_columns", CASES, str(tmp_path))
    assert sum(name.endswith("_kernel") for name in compiled) == 7
