"""Sinkhorn's sweeps in Triton: the kernels, which triton_kernels.py launches.

Exponentials are of 2: exp(x / epsilon) = 2^(x * factor). Sums of columns come in two stages, each
in a fixed order: there are no atomics. Rows that fit in registers are read once by sweep; longer
ones once for what each row is divided by, and once more. Row and matrix sizes come in units of
UNIT elements, so that the compiler sees that loads of so many are aligned.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _factor(epsilon, COMPUTE: tl.constexpr, LARGEST: tl.constexpr):
    """log2(e) / epsilon, rounded once: its error is in every exponent. Finite for any epsilon."""
    factor = (1.4426950408889634 / tl.load(epsilon).to(tl.float64)).to(COMPUTE)
    return tl.where(factor > LARGEST, LARGEST, factor)


@triton.jit
def _weights(smallest, sums, LEAST: tl.constexpr):
    """The scaling that gives columns of these sums equal ones. (Not tl.maximum: NaN stays.)"""
    weight = smallest / sums
    least = tl.full(weight.shape, LEAST, weight.dtype)  # a number in tl.where would be float32
    return tl.where(weight < least, least, weight)


@triton.jit
def columns_kernel(
    scores, epsilon, largest, sums, samples, units, chunk, stride_n, stride_k,
    UNIT: tl.constexpr, COMPUTE: tl.constexpr, LARGEST: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of a chunk of rows and a block of columns: the largest scores, the sums relative to them."""
    prototypes = units * UNIT
    factor = _factor(epsilon, COMPUTE, LARGEST)
    k = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = k < prototypes
    part = tl.program_id(1).to(tl.int64)
    row = tl.arange(0, ROWS)
    most = tl.full((COLUMNS,), -LARGEST, COMPUTE)
    total = tl.zeros((ROWS, COLUMNS), COMPUTE)
    for start in range(0, chunk, ROWS):
        n = part * chunk + start + row
        exists = (start + row < chunk) & (n < samples)
        places = (n * stride_n * UNIT)[:, None] + (k * stride_k)[None, :]
        x = tl.load(scores + places, mask=exists[:, None] & inside[None, :], other=-float("inf"))
        x = x.to(COMPUTE)
        new = tl.maximum(most, tl.max(x, axis=0))
        total *= tl.exp2((most - new) * factor)[None, :]
        total += tl.exp2((x - new[None, :]) * factor)
        most = new
    tl.store(largest + part * prototypes + k, most, mask=inside)
    tl.store(sums + part * prototypes + k, tl.sum(total, axis=0), mask=inside)


@triton.jit
def join_kernel(
    largest, sums, epsilon, maxima, totals, parts, prototypes,
    MAXIMA: tl.constexpr, COMPUTE: tl.constexpr, LARGEST: tl.constexpr,
    PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The sums of all parts; with MAXIMA each is relative to its largest score."""
    k = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = k < prototypes
    row = tl.arange(0, PARTS)
    total = tl.zeros((PARTS, COLUMNS), COMPUTE)
    if MAXIMA:
        factor = _factor(epsilon, COMPUTE, LARGEST)
        highest = tl.full((PARTS, COLUMNS), -LARGEST, COMPUTE)
        for start in range(0, parts, PARTS):
            at = (start + row)[:, None].to(tl.int64) * prototypes + k[None, :]
            there = (start + row < parts)[:, None] & inside[None, :]
            highest = tl.maximum(highest, tl.load(largest + at, mask=there, other=-LARGEST))
        most = tl.max(highest, axis=0)
        tl.store(maxima + k, most, mask=inside)
    for start in range(0, parts, PARTS):
        at = (start + row)[:, None].to(tl.int64) * prototypes + k[None, :]
        there = (start + row < parts)[:, None] & inside[None, :]
        part = tl.load(sums + at, mask=there, other=0)
        if MAXIMA:
            own = tl.load(largest + at, mask=there, other=-LARGEST)
            part *= tl.exp2((own - most[None, :]) * factor)
        total += part
    tl.store(totals + k, tl.sum(total, axis=0), mask=inside)


@triton.jit
def short_rows_kernel(
    scores, epsilon, maxima, sums, out, samples, units, each, stride_n, stride_k,
    ASSIGN: tl.constexpr, UNIT: tl.constexpr, COMPUTE: tl.constexpr, LARGEST: tl.constexpr,
    LEAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Rows to sum 1: `out` is the assignments, or each program's sums of columns.

    A program takes `each` times ROWS whole rows, and loads the next ones while it works.
    """
    prototypes = units * UNIT
    factor = _factor(epsilon, COMPUTE, LARGEST)
    k = tl.arange(0, COLUMNS)[None, :].to(tl.int64)
    inside = k < prototypes
    shift = tl.load(maxima + k, mask=inside, other=0)
    shares = tl.load(sums + k, mask=inside, other=float("inf"))
    # The smallest, or NaN if there is one: tl.min passes it over.
    smallest = tl.min(shares) + tl.sum(tl.where(shares != shares, shares, 0))
    weight = _weights(smallest, shares, LEAST)
    program = tl.program_id(0).to(tl.int64)
    n = program * each * ROWS + tl.arange(0, ROWS)[:, None]
    end = tl.minimum((program + 1) * each * ROWS, samples)
    along = k * stride_k
    loaded = tl.load(
        scores + (n * stride_n * UNIT + along), mask=(n < end) & inside, other=-float("inf")
    )
    part = tl.zeros((ROWS, COLUMNS), COMPUTE)
    for _ in range(0, each):
        x = loaded.to(COMPUTE) - shift
        following = n + ROWS
        loaded = tl.load(
            scores + (following * stride_n * UNIT + along), mask=(following < end) & inside,
            other=-float("inf"),
        )  # fmt: skip
        e = tl.exp2((x - tl.max(x, axis=1)[:, None]) * factor)
        weighted = e * weight
        scale = (1 / tl.sum(weighted, axis=1))[:, None]
        if ASSIGN:
            tl.store(out + (n * prototypes + k), weighted * scale, mask=(n < end) & inside)
        else:
            part += tl.where(n < end, e * scale, 0)
        n = following
    if not ASSIGN:
        at = tl.arange(0, COLUMNS)
        tl.store(out + program * prototypes + at, tl.sum(part, axis=0), mask=at < prototypes)


@triton.jit
def row_sums_kernel(
    scores, epsilon, maxima, sums, least, largest, scales, samples, units, stride_n, stride_k,
    UNIT: tl.constexpr, COMPUTE: tl.constexpr, LARGEST: tl.constexpr, LEAST: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Each row's largest score (less the columns'), and what makes its sum 1."""
    prototypes = units * UNIT
    factor = _factor(epsilon, COMPUTE, LARGEST)
    smallest = tl.load(least)
    n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = n < samples
    most = tl.full((ROWS,), -LARGEST, COMPUTE)
    total = tl.zeros((ROWS, COLUMNS), COMPUTE)
    for start in range(0, prototypes, COLUMNS):
        k = (start + tl.arange(0, COLUMNS)).to(tl.int64)
        inside = k < prototypes
        places = (n * stride_n * UNIT)[:, None] + (k * stride_k)[None, :]
        x = tl.load(scores + places, mask=exists[:, None] & inside[None, :], other=-float("inf"))
        x = x.to(COMPUTE) - tl.load(maxima + k, mask=inside, other=0)[None, :]
        weight = _weights(smallest, tl.load(sums + k, mask=inside, other=float("inf")), LEAST)
        new = tl.maximum(most, tl.max(x, axis=1))
        total *= tl.exp2((most - new) * factor)[:, None]
        total += tl.exp2((x - new[:, None]) * factor) * weight[None, :]
        most = new
    tl.store(largest + n, most, mask=exists)
    tl.store(scales + n, 1 / tl.sum(total, axis=1), mask=exists)


@triton.jit
def long_rows_kernel(
    scores, epsilon, maxima, sums, least, largest, scales, out, samples, units, chunk, stride_n,
    stride_k,
    ASSIGN: tl.constexpr, UNIT: tl.constexpr, COMPUTE: tl.constexpr, LARGEST: tl.constexpr,
    LEAST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A chunk of rows and a block of columns of what `short_rows_kernel` gives."""
    prototypes = units * UNIT
    factor = _factor(epsilon, COMPUTE, LARGEST)
    k = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = k < prototypes
    shift = tl.load(maxima + k, mask=inside, other=0)
    weight = tl.zeros((COLUMNS,), COMPUTE)
    if ASSIGN:
        shares = tl.load(sums + k, mask=inside, other=float("inf"))
        weight = _weights(tl.load(least), shares, LEAST)
    part = tl.program_id(1).to(tl.int64)
    row = tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), COMPUTE)
    for start in range(0, chunk, ROWS):
        n = part * chunk + start + row
        exists = (start + row < chunk) & (n < samples)
        there = exists[:, None] & inside[None, :]
        places = (n * stride_n * UNIT)[:, None] + (k * stride_k)[None, :]
        x = tl.load(scores + places, mask=there, other=-float("inf")).to(COMPUTE)
        most = tl.load(largest + n, mask=exists, other=0)
        scale = tl.load(scales + n, mask=exists, other=0)
        e = tl.exp2((x - shift[None, :] - most[:, None]) * factor) * scale[:, None]
        if ASSIGN:
            at = (n * prototypes)[:, None] + k[None, :]
            tl.store(out + at, e * weight[None, :], mask=there)
        else:
            total += e
    if not ASSIGN:
        tl.store(out + part * prototypes + k, tl.sum(total, axis=0), mask=inside)
