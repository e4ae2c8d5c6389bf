"""Who serves an op, how one is forced, and what is said when it cannot serve."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import ssl_fast
from ssl_fast import ops
from ssl_fast._dispatch import OPS, backends, native, register

IMAGES = torch.rand(1, 1, 16, 16)
compiled = pytest.mark.skipif(bool(native.ops().reason), reason=native.ops().reason or "-")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TRITON_INTERPRET": "0", **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


@compiled
def test_preference_on_the_cpu() -> None:
    assert ssl_fast.explain("hog").owner == "compiled"
    assert ssl_fast.explain("hog", IMAGES).device == "cpu"


@compiled
def test_force_and_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts nest, and each leaves what it found."""
    expected = ops.hog(IMAGES)
    with ssl_fast.backend("reference"):
        assert ssl_fast.explain("hog").owner == "reference"
        assert ssl_fast.explain("hog").forced
        reference = ops.hog(IMAGES)
        with ssl_fast.backend("compiled"):
            assert torch.equal(ops.hog(IMAGES), expected)
        assert torch.equal(ops.hog(IMAGES), reference)
    assert torch.equal(ops.hog(IMAGES), expected)
    assert not ssl_fast.explain("hog").forced


def test_the_forced_one_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not just named: a marked implementation is reached through the dispatcher."""
    marked = torch.full((1,), 42.0)
    monkeypatch.setattr(backends, "_implementation", lambda *_: lambda *args: marked.clone())
    with ssl_fast.backend("reference"):
        assert ops.hog(IMAGES).item() == 42.0
    monkeypatch.undo()
    assert ops.hog(IMAGES).shape == (1, 1, 9, 2, 2)


def test_the_owner_is_found_at_the_first_call() -> None:
    """As on a GPU, tried on the CPU: the first call replaces itself by the owner."""
    expected = ops.hog(IMAGES)
    backends._resolve_at_first_call(OPS["hog"], "cpu")
    waiting = backends._overrides["hog", "cpu"]
    for _ in range(2):
        assert torch.equal(ops.hog(IMAGES), expected)
        assert backends._overrides.get(("hog", "cpu")) is not waiting
    backends.install(OPS["hog"])


@compiled
def test_an_op_without_a_kernel_says_so() -> None:
    register("bare(Tensor x) -> Tensor", reference=torch.neg, fake=torch.empty_like)
    toy = OPS.pop("bare")
    assert backends.reason(toy, "compiled", "cpu") == "bare has no compiled CPU kernel"
    assert ("bare", "cuda") not in backends._compiled
    assert backends.reason(toy, "emulated", "cpu") == "bare has no CUDA C++ kernel"
    assert backends.reason(toy, "triton", "cpu") == "bare has no Triton kernel"


def test_restored_after_an_error() -> None:
    with pytest.raises(ValueError, match="images are"), ssl_fast.backend("reference"):
        ops.hog(IMAGES[..., :5])
    assert not ssl_fast.explain("hog").forced


def test_unknown_names() -> None:
    with (
        pytest.raises(ValueError, match="backend is 'cuda'; accepted are 'reference'"),
        ssl_fast.backend("cuda"),
    ):
        pass
    with pytest.raises(ValueError, match=r"op is 'hug'; known are .*'hog'"):
        ssl_fast.explain("hug")
    with pytest.raises(ValueError, match="device is 'tpu'"):
        ssl_fast.explain("hog", device="tpu")


@compiled
def test_instruction_sets() -> None:
    before = native.instruction_set()
    with pytest.raises(ValueError, match="'sse9' is not to be had here; accepted are 'baseline'"):
        native.force_instruction_set("sse9")
    assert native.instruction_set() == before
    native.force_instruction_set("baseline")
    assert native.instruction_set() == "baseline"
    native.force_instruction_set(before)


@compiled
def test_instruction_set_from_the_environment() -> None:
    show = "import ssl_fast; from ssl_fast._dispatch import native; print(native.instruction_set())"
    assert run(show, SSL_FAST_ISA="baseline").stdout.strip() == "baseline"
    assert "'mmx' is not to be had" in run(show, SSL_FAST_ISA="mmx").stderr


def test_backend_from_the_environment() -> None:
    show = "import ssl_fast; e = ssl_fast.explain('hog'); print(e.owner, e.forced)"
    assert run(show, SSL_FAST_BACKEND="reference").stdout.strip() == "reference True"
    refused = run(show, SSL_FAST_BACKEND="gpu")
    assert refused.returncode != 0
    assert "SSL_FAST_BACKEND is 'gpu'; accepted are 'reference'" in refused.stderr


def test_refusals_name_the_reason() -> None:
    call = "import torch, ssl_fast; ssl_fast.ops.hog(torch.rand(1, 1, 16, 16))"
    refused = run(call, SSL_FAST_BACKEND="triton")
    assert "backend 'triton' cannot serve hog on cpu" in refused.stderr
    assert "TRITON_INTERPRET=1" in refused.stderr or "pip install triton" in refused.stderr
    missing = run(call, SSL_FAST_BACKEND="emulated", SSL_FAST_EMULATED_LIBRARY="nowhere.so")
    assert "backend 'emulated' cannot serve hog on cpu: nowhere.so was not built" in missing.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_explains_a_gpu_that_is_not_there() -> None:
    explanation = ssl_fast.explain("hog", device="cuda")
    assert explanation.owner == "reference"
    assert explanation.reasons["compiled"]
    assert "hog on cuda: reference" in str(explanation)


@compiled
@pytest.mark.skipif(torch.version.cuda is None, reason="a CPU build of torch")
def test_finds_the_current_stream_of_a_cuda_build() -> None:
    """Needs libtorch_cuda, not a GPU."""
    assert native.ops().handle.ssl_fast_finds_cuda_stream() == 1


@pytest.mark.gpu
def test_import_creates_no_context() -> None:
    show = "import ssl_fast, torch; print(torch.cuda.is_initialized())"
    assert run(show).stdout.strip() == "False"


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPS)
def test_first_call_on_a_gpu_finds_the_owner(name: str) -> None:
    assert ssl_fast.explain(name, device="cuda").owner in ("triton", "compiled")


def test_import_is_silent_and_light() -> None:
    """No warning, and no module beyond torch's, the standard library's and our own."""
    code = (
        "import sys, torch; before = set(sys.modules); import ssl_fast; "
        "tops = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(tops - set(sys.stdlib_module_names) - {'torch'}))"
    )
    result = run(code)
    assert result.stderr == ""
    assert result.stdout.split() == ["ssl_fast"]
