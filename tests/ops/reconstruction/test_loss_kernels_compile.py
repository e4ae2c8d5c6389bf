"""The Triton kernels of the masked patch loss through the real compiler, for a GPU not here."""

from __future__ import annotations

import importlib.util

import pytest

from ssl_fast._testing.hopper import compile_for_hopper

PLAIN = "HAS_MEAN=False, HAS_STD=False, NORM=True, IMAGE_SHAPED=False, DENSE=True, POWER=2"
ALL = "HAS_MEAN=True, HAS_STD=True, NORM=False, IMAGE_SHAPED=True, DENSE=False, POWER=1"
NARROW = "WIDE=False, COMPUTE=tl.float32, PATCHES=1, ELEMENTS=1024, PATCH=16, CHANNELS=3"
SMALL = "WIDE=False, COMPUTE=tl.float32, PATCHES=16, ELEMENTS=64, PATCH=4, CHANNELS=3"
WIDE = "WIDE=True, COMPUTE=tl.float64, PATCHES=1, ELEMENTS=4096, PATCH=32, CHANNELS=3"
TABLES = 'mask="*fp32", mean="*fp32", std="*fp32"'
GRADIENT = 'count="*fp32"'
CASES = f"""[
    ("_partial_kernel", dict(pred="*bf16", images="*u8", {TABLES}, partials="*fp32"),
     dict({PLAIN}, {NARROW})),
    ("_partial_kernel", dict(pred="*fp32", images="*fp16", {TABLES}, partials="*fp32"),
     dict({ALL}, {SMALL})),
    ("_partial_kernel", dict(pred="*fp64", images="*fp64", {TABLES}, partials="*fp64"),
     dict({PLAIN}, {WIDE})),
    ("_total_kernel", dict(partials="*fp32", out="*fp32", count_out="*fp32"),
     dict(COMPUTE=tl.float32, BLOCK=2048)),
    ("_total_kernel", dict(partials="*fp64", out="*fp64", count_out="*fp64"),
     dict(COMPUTE=tl.float64, BLOCK=2048)),
    ("_gradient_kernel",
     dict(pred="*bf16", images="*u8", {TABLES}, grad="*fp32", {GRADIENT}, out="*bf16"),
     dict({PLAIN}, {NARROW})),
    ("_gradient_kernel",
     dict(pred="*fp16", images="*fp64", {TABLES}, grad="*fp64", {GRADIENT}, out="*fp16"),
     dict({ALL}, {WIDE})),
]"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="pip install triton")
def test_compile_for_hopper(tmp_path: object) -> None:
    compiled = compile_for_hopper("reconstruction.triton_patches", CASES, str(tmp_path))
    assert sum(name.endswith("_kernel") for name in compiled) == 7
