"""The Triton kernels of the contrastive losses through the real compiler, for a GPU not here."""

from __future__ import annotations

import importlib.util

import pytest

from ssl_fast._testing.hopper import compile_for_hopper

POINTERS = 'scale="*fp32", bias="*fp32", targets="*i64", row_lse="*fp32", column_lse="*fp32"'
PARTS = 'row_parts="*fp32", column_parts="*fp32", positive="*fp32"'
SUMS = 'losses="*fp32", slopes="*fp32"'
NT_XENT = "HAS_SELF=True, USE_ROWS=True, USE_COLUMNS=True"
TEXTS = "HAS_SELF=False, USE_ROWS=False, USE_COLUMNS=True"
SIGLIP = "HAS_SELF=False, USE_ROWS=False, USE_COLUMNS=False, SIGMOID=True"
PANEL_SUMS = f"""[
    ("_panel_sums_kernel", dict(dots="*fp32", scale="*fp32", targets="*i64", {PARTS}),
     dict(HAS_TARGETS=False, HAS_SELF=True, COLUMNS=True, BLOCK_R=16, BLOCK_C=512, GROUP=4)),
    ("_panel_sums_kernel", dict(dots="*fp64", scale="*fp64", targets="*i64",
     {PARTS.replace("fp32", "fp64")}),
     dict(HAS_TARGETS=True, HAS_SELF=False, COLUMNS=False, BLOCK_R=16, BLOCK_C=256, GROUP=4)),
    ("_join_kernel", dict(row_parts="*fp32", column_parts="*fp32", row_lse="*fp32",
     column_lse="*fp32", state="*fp32"),
     dict(MORE_ROWS=True, MORE_COLUMNS=True, LAST=False, BLOCK=32, PARTS=64)),
]"""
ROWS = """[
    ("_positive_kernel", dict(row_features="*bf16", column_features="*bf16", scale="*fp32",
     targets="*i64", out="*fp32"),
     dict(HAS_TARGETS=True, HAS_SELF=True, BLOCK_R=8, BLOCK_D=128)),
]"""
RESULTS = """[
    ("_scale_kernel", dict(grad_rows="*fp32", row_features="*bf16", grad_columns="*fp32",
     scale="*fp32", parts="*fp32"), dict(BLOCK=4096)),
    ("_queue_kernel", dict(grad_query="*fp32", grad_positive="*fp32", query="*bf16",
     positive="*bf16", matched="*fp32", lse="*fp32", scale="*fp32", parts="*fp32"),
     dict(BLOCK_R=4, BLOCK_D=128)),
    ("_sums_kernel", dict.fromkeys(("first", "second", "positive", "parts", "slopes", "loss",
     "grad_scale", "grad_bias"), "*fp32"),
     dict(SECOND=True, POSITIVE=True, PARTS=True, SLOPES=True, BLOCK=4096)),
]"""
PANELS = f"""[
    ("_panel_weights_kernel", dict(dots="*fp32", weights="*bf16", {POINTERS}, {SUMS}),
     dict(HAS_TARGETS=False, {NT_XENT}, SIGMOID=False, BLOCK_R=32, BLOCK_C=128)),
    ("_panel_weights_kernel", dict(dots="*fp64", weights="*fp64",
     {POINTERS.replace("fp32", "fp64")}, {SUMS.replace("fp32", "fp64")}),
     dict(HAS_TARGETS=True, {SIGLIP}, BLOCK_R=32, BLOCK_C=128)),
]"""


def features(dtype):
    return f'row_features="*{dtype}", column_features="*{dtype}"'


def constants(operand, rows, columns, size):
    blocks = f"BLOCK_R={rows}, BLOCK_C={columns}, SIZE={size}, WHOLE={size == 128}"
    return f"OPERAND=tl.{operand}, {blocks}"


BFLOAT = constants("bfloat16", 128, 64, 128)
HALF = constants("float16", 128, 64, 256)
FUSED = f"""[
    ("_fused_sums_kernel", dict({features("bf16")}, {POINTERS}, parts="*fp32", positive="*fp32"),
     dict({BFLOAT}, HAS_SELF=True, POSITIVES=True, HAS_TARGETS=True)),
    ("_join_sums_kernel", dict(parts="*fp32", out="*fp32"), dict(BLOCK_S=16, BLOCK_R=64)),
    ("_fused_gradient_kernel", dict({features("bf16")}, out="*fp32", {POINTERS}),
     dict({BFLOAT}, {NT_XENT}, HAS_TARGETS=False, OF_COLUMNS=False)),
    ("_fused_gradient_kernel", dict({features("fp16")}, out="*fp32", {POINTERS}),
     dict({HALF}, {TEXTS}, HAS_TARGETS=False, OF_COLUMNS=True)),
]"""


CASES = (
    ("triton_panels", PANELS),
    ("triton_sums", PANEL_SUMS),
    ("triton_rows", ROWS),
    ("triton_results", RESULTS),
    ("triton_fused_kernels", FUSED),
)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="pip install triton")
@pytest.mark.parametrize(("module", "cases"), CASES)
def test_compile_for_hopper(module, cases, tmp_path):
    compiled = compile_for_hopper(f"contrastive.{module}", cases, str(tmp_path))
    assert len(compiled) == cases.count("_kernel")
