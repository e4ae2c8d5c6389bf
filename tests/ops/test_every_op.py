"""Every registered op through every backend, dtype and sample. See test_every_op_on_gpu.py too."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import ssl_fast
from ssl_fast._dispatch import OPS, backends, native
from ssl_fast._testing import checks
from ssl_fast._testing.samples import SAMPLES, Sample

INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
CPU_BACKENDS = ("reference", *(f"compiled-{name}" for name in INSTRUCTION_SETS), "emulated")
CALLS = [
    pytest.param(name, dtype, sample, id=f"{name}-{str(dtype)[6:]}-{sample.name}")
    for name, samples in SAMPLES.items()
    for dtype in samples.dtypes
    for sample in samples.make(dtype)
]
# For what does not depend on the input's type: float32, or int64 where an op takes only that.
FLOAT_CALLS = [call for call in CALLS if call.values[1] in (torch.float32, torch.int64)]
GRADIENT_CALLS = [
    call for call in CALLS if OPS[call.values[0]].differentiable and call.values[1] != torch.uint8
]


@contextmanager
def serving(name: str, op: str, device: str = "cpu") -> Iterator[None]:
    """Forces "backend" or "compiled-<instruction set>", or skips where it cannot serve."""
    chosen, _, instruction_set = name.partition("-")
    for part in (op, f"{op}_backward"):
        if part in OPS and (reason := backends.reason(OPS[part], chosen, device)):
            pytest.skip(reason)
    before = native.instruction_set()
    if instruction_set:
        try:
            native.force_instruction_set(instruction_set)
        except ValueError as error:
            pytest.skip(str(error))
    try:
        with ssl_fast.backend(chosen):
            yield
    finally:
        if before:
            native.force_instruction_set(before)


def skip_for_interpreter(sample: Sample) -> None:
    """Skips what Triton's interpreter, which serves the CPU, does not or should not do."""
    if torch.cuda.is_available():
        pytest.skip("Triton has a GPU here: see test_every_op_on_gpu.py")
    if sample.large:
        pytest.skip("too large for Triton's interpreter")


def test_every_op_has_samples() -> None:
    assert set(SAMPLES) == set(OPS)


@pytest.mark.parametrize("name", [*CPU_BACKENDS, "triton"])
@pytest.mark.parametrize(("op", "dtype", "sample"), CALLS)
def test_truth(op: str, dtype: torch.dtype, sample: Sample, name: str) -> None:
    if name == "triton":
        skip_for_interpreter(sample)
    with serving(name, op):
        checks.check_against_truth(OPS[op], sample)


@pytest.mark.parametrize("name", [*CPU_BACKENDS, "triton"])
@pytest.mark.parametrize(("op", "dtype", "sample"), GRADIENT_CALLS)
def test_true_gradients(op: str, dtype: torch.dtype, sample: Sample, name: str) -> None:
    if name == "triton":
        skip_for_interpreter(sample)
    with serving(name, op):
        checks.check_gradients_against_truth(OPS[op], sample)


@pytest.mark.parametrize("name", ["reference", *CPU_BACKENDS[1:]])
@pytest.mark.parametrize(("op", "dtype", "sample"), FLOAT_CALLS)
def test_strides(op: str, dtype: torch.dtype, sample: Sample, name: str) -> None:
    with serving(name, op):
        checks.check_strides(OPS[op], sample)


@pytest.mark.parametrize("name", ["reference", "compiled"])
@pytest.mark.parametrize("op", OPS)
def test_registration(op: str, name: str) -> None:
    """opcheck on the first samples, which have no NaN (it would compare unequal)."""
    for dtype in (SAMPLES[op].dtypes[0], torch.float32):
        with serving(name, op):
            for sample in itertools.islice(SAMPLES[op].make(dtype), 4):
                checks.check_registration(OPS[op], sample)


@pytest.mark.parametrize("name", ["reference", "compiled"])
@pytest.mark.parametrize("op", OPS)
def test_gradients(op: str, name: str) -> None:
    with serving(name, op):
        checks.check_gradients(OPS[op], next(SAMPLES[op].make(torch.float64)))


@pytest.mark.parametrize("name", ["reference", "compiled"])
@pytest.mark.parametrize("op", OPS)
def test_autocast(op: str, name: str) -> None:
    for dtype in SAMPLES[op].dtypes:
        with serving(name, op):
            checks.check_autocast(OPS[op], next(SAMPLES[op].make(dtype)))


@pytest.mark.parametrize("op", OPS)
def test_compile(op: str) -> None:
    """Every sample through AOT autograd, one through the whole of inductor."""
    for sample in SAMPLES[op].make(torch.float32):
        checks.check_compile(OPS[op], sample, "aot_eager")
    checks.check_compile(OPS[op], next(SAMPLES[op].make(torch.float32)), "inductor")
