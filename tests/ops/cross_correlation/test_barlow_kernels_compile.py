"""Barlow Twins' Triton kernels through the real compiler, for a GPU that is not here."""

from __future__ import annotations

import importlib.util

import pytest

from ssl_fast._testing.hopper import compile_for_hopper

NARROW = "COMPUTE=tl.float32, ROWS=64, COLUMNS=16"
WIDE = "COMPUTE=tl.float64, ROWS=64, COLUMNS=16"
VIEWS = 'z0="*bf16", z1="*bf16", statistics="*fp32", diagonal="*fp32"'
SLOPES = 'slope0="*fp32", slope1="*fp32", squares="*fp32"'
CASES = f"""[
    ("_statistics_kernel", dict(z="*bf16", statistics="*fp32", eps="fp32"), dict({NARROW})),
    ("_statistics_kernel", dict(z="*fp64", statistics="*fp64", eps="fp32"), dict({WIDE})),
    ("_standardise_kernel", dict({VIEWS}, h0="*bf16", h1="*bf16"), dict({NARROW})),
    ("_settle_kernel", dict({VIEWS}, {SLOPES}, scale="fp32"), dict(WITH_DIAGONAL=True, {NARROW})),
    ("_settle_kernel", dict({VIEWS}, {SLOPES}, scale="fp32"), dict(WITH_DIAGONAL=False, {NARROW})),
    ("_finish_kernel", dict({VIEWS}, {SLOPES}, weight="*fp32", grad0="*fp32", grad1="*fp32"),
     dict({NARROW})),
]"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="pip install triton")
def test_compile_for_hopper(tmp_path: object) -> None:
    compiled = compile_for_hopper("cross_correlation.triton_kernels", CASES, str(tmp_path))
    assert sum(name.endswith("_kernel") for name in compiled) == 6
