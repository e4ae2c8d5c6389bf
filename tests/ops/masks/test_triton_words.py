"""Triton's Philox against Random123's known answers, under the interpreter or on a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.test_random import KNOWN_ANSWERS, Words

triton = pytest.importorskip("triton")
tl = triton.language

from ssl_fast.ops.masks.triton_words import words  # noqa: E402


@triton.jit
def _kernel(seed, sample_id, draw, out, STREAM: tl.constexpr):
    i = tl.arange(0, 2)
    a, b, c, d = words(tl.load(seed), tl.load(sample_id), tl.load(draw + i), STREAM)
    for_draw = out + i * 4
    tl.store(for_draw, a)
    tl.store(for_draw + 1, b)
    tl.store(for_draw + 2, c)
    tl.store(for_draw + 3, d)


def signed(low: int, high: int) -> int:
    value = high << 32 | low
    return value - 2**64 if value >= 2**63 else value


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_of_triton(counter: Words, key: Words, expected: Words) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seed = torch.tensor([signed(*key)], device=device)
    sample_id = torch.tensor([signed(*counter[:2])], device=device)
    draw = torch.tensor([7, counter[2]], device=device).to(torch.int32)
    out = torch.zeros(2, 4, dtype=torch.int64, device=device)
    _kernel[(1,)](seed, sample_id, draw, out, STREAM=counter[3])
    assert tuple(out[1].tolist()) == expected
    assert tuple(out[0].tolist()) != expected
