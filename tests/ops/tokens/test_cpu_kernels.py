"""What the CPU kernels do that small samples do not show: large outputs, written past the caches,
and rounding to the 16-bit types.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ssl_fast._dispatch import OPS, native
from ssl_fast._testing.checks import outputs_of, poisoned_allocation
from ssl_fast._testing.samples.tokens import FLOATS, normal, repeated, shuffles

STREAMED = 8 << 20  # csrc/tokens/tokens.h, kStreamedBytes


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    if native.ops().reason:
        pytest.skip(native.ops().reason)
    before = native.instruction_set()
    try:
        native.force_instruction_set(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield
    native.force_instruction_set(before)


def calls(dtype: torch.dtype) -> Iterator[tuple[str, tuple[object, ...]]]:
    dim = STREAMED // (4 * 256 * dtype.itemsize)  # [4, 256, dim] is just large enough
    x = normal(dtype, 4, 100, dim)
    token, pos = normal(dtype, dim), normal(dtype, 256, dim)
    some = shuffles(4, 256)[:, :100]
    yield "gather_tokens", (x, repeated(4, 256, 100))
    yield "gather_tokens_backward", (x, some, 256)
    yield "restore_tokens", (x, shuffles(4, 255), token, pos, 1)
    yield "restore_tokens", (x, shuffles(4, 256), token, None, 0)
    yield "add_positions", (x.repeat(1, 3, 1)[:, :256], pos, repeated(4, 256, 256))
    yield (
        "restore_tokens_backward",
        (pos.expand(4, 256, dim), some.repeat(1, 3)[:, :256], 0, 256, dtype, True, False, False),
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_large_outputs(dtype: torch.dtype, instruction_set: None) -> None:
    for name, args in calls(dtype):
        with poisoned_allocation():
            results = outputs_of(OPS[name].overload(*args))
        assert results[0].numel() * dtype.itemsize >= STREAMED
        for result, expected in zip(results, outputs_of(OPS[name].reference(*args)), strict=True):
            assert torch.equal(result, expected), name


def test_a_large_output_read_at_once() -> None:
    """What one thread wrote past the caches, another reads."""
    x: Tensor = normal(torch.float32, 4, 64, 1024)
    ids = repeated(4, 2048, 64)
    for _ in range(5):
        total = OPS["gather_tokens"].overload(x, ids).double().sum(dim=1)
        torch.testing.assert_close(total, OPS["gather_tokens"].reference(x, ids).double().sum(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_rounding(dtype: torch.dtype, instruction_set: None) -> None:
    """Every number of the type, what lies half-way to the next, and both neighbours of that."""
    own = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).float()
    bits = own.view(torch.int32)
    halves = bits + (1 << (12 if dtype == torch.float16 else 15))
    floats = torch.cat([bits, halves - 1, halves, halves + 1]).view(torch.float32)
    # Half-way between float16's subnormals the exponent decides where the bit is.
    floats = torch.cat([floats, torch.arange(-2050, 2050) * 2.0**-25])
    images = floats.view(1, 1, 1, -1)
    ids = torch.zeros(1, 1, dtype=torch.int64)
    apart = images.repeat_interleave(2, dim=3)[..., ::2]  # goes number by number
    for picture in (images, apart):
        args = (picture, ids, 1, picture.shape[3], None, None, dtype)
        result = OPS["gather_patches"].overload(*args).flatten()
        expected = floats.to(dtype)
        assert torch.equal(result.isnan(), expected.isnan())
        assert torch.equal(result.nan_to_num(), expected.nan_to_num())
