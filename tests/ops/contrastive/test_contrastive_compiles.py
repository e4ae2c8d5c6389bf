"""The Triton kernels of the contrastive losses through the real compiler, for a GPU not here."""

from __future__ import annotations

import importlib.util

import pytest

from ssl_fast._testing.hopper import compile_for_hopper

POINTERS = 'scale="*fp32", bias="*fp32", targets="*i64", row_lse="*fp32", column_lse="*fp32"'
PARTS = 'row_parts="*fp32", column_parts="*fp32", positive="*fp32"'
SUMS = 'losses="*fp32", slopes="*fp32"'
NT_XENT = "HAS_SELF=True, USE_ROWS=True, USE_COLUMNS=True, SIGMOID=False"
SIGLIP = "HAS_SELF=False, USE_ROWS=False, USE_COLUMNS=False, SIGMOID=True"
PANELS = f"""[
    ("_panel_sums_kernel", dict(dots="*fp32", scale="*fp32", targets="*i64", {PARTS}),
     dict(HAS_SELF=True, COLUMNS=True, BLOCK_R=32, BLOCK_C=128)),
    ("_panel_weights_kernel", dict(dots="*fp32", weights="*bf16", {POINTERS}, {SUMS}),
     dict({NT_XENT}, BLOCK_R=32, BLOCK_C=128)),
    ("_panel_weights_kernel", dict(dots="*fp64", weights="*fp64",
     {POINTERS.replace("fp32", "fp64")}, {SUMS.replace("fp32", "fp64")}),
     dict({SIGLIP}, BLOCK_R=32, BLOCK_C=128)),
]"""


def features(dtype):
    return f'row_features="*{dtype}", column_features="*{dtype}"'


def constants(operand, precision, rows, columns, size):
    blocks = f"BLOCK_R={rows}, BLOCK_C={columns}, SIZE={size}, WHOLE={size == 128}"
    return f'OPERAND=tl.{operand}, PRECISION="{precision}", {blocks}'


BFLOAT = constants("bfloat16", "ieee", 128, 64, 128)
TF32 = constants("float32", "tf32", 64, 32, 256)
FUSED = f"""[
    ("_fused_sums_kernel", dict({features("bf16")}, {POINTERS}, parts="*fp32", positive="*fp32"),
     dict({BFLOAT}, HAS_SELF=True, POSITIVES=True, HAS_TARGETS=True)),
    ("_join_sums_kernel", dict(parts="*fp32", out="*fp32"), dict(BLOCK_S=16, BLOCK_R=64)),
    ("_fused_sigmoid_kernel", dict({features("bf16")}, {POINTERS}, parts="*fp32"),
     dict({BFLOAT}, HAS_TARGETS=False)),
    ("_fused_gradient_kernel", dict({features("bf16")}, out="*fp32", {POINTERS}),
     dict({BFLOAT}, {NT_XENT}, HAS_TARGETS=False, OF_COLUMNS=False)),
    ("_fused_gradient_kernel", dict({features("fp32")}, out="*fp32", {POINTERS}),
     dict({TF32}, {SIGLIP}, HAS_TARGETS=False, OF_COLUMNS=True)),
]"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="pip install triton")
@pytest.mark.parametrize(
    ("module", "cases"), [("triton_panels", PANELS), ("triton_fused_kernels", FUSED)]
)
def test_compile_for_hopper(module, cases, tmp_path):
    compiled = compile_for_hopper(f"contrastive.{module}", cases, str(tmp_path))
    assert len(compiled) == cases.count("_kernel")
