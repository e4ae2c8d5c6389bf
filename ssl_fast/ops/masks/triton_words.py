"""Philox in Triton, as csrc/common/philox.h lays out its counters."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def words(seed, sample_id, draw, STREAM: tl.constexpr):
    """Four random words, uint32, for each pair of sample id (int64) and draw (int32)."""
    sample_id = sample_id + (draw * 0).to(tl.int64)
    draw = (draw + (sample_id * 0).to(tl.int32)).to(tl.uint32)
    low = (sample_id & 0xFFFFFFFF).to(tl.uint32)
    high = ((sample_id >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox(seed, low, high, draw, draw * 0 + STREAM)
