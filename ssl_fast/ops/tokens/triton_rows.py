"""Triton kernels of the token ops: a program takes rows of one output whole, or in blocks of
columns. `triton_kernels` launches them.

A row's address takes 64 bits; its number is divided in 32 bits where it fits, which is several
times as fast. bfloat16 is widened before arithmetic.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rows(count, WIDE: tl.constexpr, ROWS: tl.constexpr):
    """The program's rows of [N, count], with their sample and place in it; all of 64 bits."""
    row = tl.program_id(0)
    if WIDE:
        row = row.to(tl.int64)
    row = row * ROWS + tl.arange(0, ROWS)
    n = row // count
    return row.to(tl.int64), n.to(tl.int64), (row - n * count).to(tl.int64)


@triton.jit
def _gather_kernel(
    x, ids, out, rows, count, length, dim, stride_n, stride_l, stride_d, id_n, id_k,
    WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[n, k] = x[n, ids[n, k]]; NaN for an id out of range."""
    row, n, k = _rows(count, WIDE, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    exists = row < rows
    id = tl.load(ids + n * id_n + k * id_k, mask=exists, other=-1)
    inside = (id >= 0) & (id < length)
    within = column[None, :] < dim
    source = (x + n * stride_n + id * stride_l)[:, None] + column[None, :] * stride_d
    value = tl.load(source, mask=inside[:, None] & within, other=float("nan"))
    tl.store(out + (row * dim)[:, None] + column[None, :], value, mask=exists[:, None] & within)


@triton.jit
def _sum_kernel(
    grad, ids, out, count, prefix, length, dim, grad_n, grad_l, grad_d, id_n, id_k,
    COMPUTE: tl.constexpr, IDS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[n, prefix + r] = sum over k of grad[n, prefix + k] where ids[n, k] = r, k ascending; the
    first `prefix` rows are handed through. Each row looks for its ids: nothing is sorted or shared.
    """
    program = tl.program_id(0)
    n = (program // (prefix + length)).to(tl.int64)
    row = (program % (prefix + length)).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    within = column < dim
    base = grad + n * grad_n + column * grad_d
    if row < prefix:
        total = tl.load(base + row * grad_l, mask=within, other=0).to(COMPUTE)
    else:
        total = tl.zeros((COLUMNS,), COMPUTE)
        for start in range(0, count, IDS):
            k = start + tl.arange(0, IDS)
            id = tl.load(ids + n * id_n + k.to(tl.int64) * id_k, mask=k < count, other=-1)
            mine = id == row - prefix
            found = tl.min(tl.where(mine, k, count))
            while found < count:
                source = base + (prefix + found).to(tl.int64) * grad_l
                total += tl.load(source, mask=within, other=0).to(COMPUTE)
                found = tl.min(tl.where(mine & (k > found), k, count))
    tl.store(out + program.to(tl.int64) * dim + column, total, mask=within)


@triton.jit
def _restore_kernel(
    x, ids, mask_token, pos, out, rows, prefix, kept, length, dim,
    stride_n, stride_l, stride_d, id_n, id_k,
    COMPUTE: tl.constexpr, POSITIONS: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[n, prefix + l] = x[n, prefix + ids[n, l]] or the mask token, + pos[prefix + l]."""
    row, n, l = _rows(prefix + length, WIDE, ROWS)  # noqa: E741
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    exists = row < rows
    within = column < dim
    id = tl.load(ids + n * id_n + (l - prefix) * id_k, mask=exists & (l >= prefix), other=-1)
    taken = (l < prefix) | ((id >= 0) & (id < kept))
    source = tl.where(l < prefix, l, prefix + id)
    at = (x + n * stride_n + source * stride_l)[:, None] + column[None, :] * stride_d
    value = tl.load(at, mask=(exists & taken)[:, None] & within[None, :], other=0).to(COMPUTE)
    token = tl.load(mask_token + column, mask=within, other=0).to(COMPUTE)
    value = tl.where(taken[:, None], value, token[None, :])
    written = exists[:, None] & within[None, :]
    if POSITIONS:
        value += tl.load(pos + (l * dim)[:, None] + column[None, :], mask=written, other=0).to(
            COMPUTE
        )
    tl.store(out + (row * dim)[:, None] + column[None, :], value, mask=written)


@triton.jit
def _parameters_kernel(
    grad, ids, pos, partial, batch, prefix, kept, length, dim,
    grad_n, grad_l, grad_d, id_n, id_k,
    COMPUTE: tl.constexpr, POS: tl.constexpr, TOKEN: tl.constexpr, GROUP: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums over samples for one row l: of all to pos[l], of those where the mask token stood to
    partial[l]. Groups of samples first, so that rounding errors stay small.
    """
    l = tl.program_id(0).to(tl.int64)  # noqa: E741
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    within = column < dim
    all_sum = tl.zeros((COLUMNS,), COMPUTE)
    token_sum = tl.zeros((COLUMNS,), COMPUTE)
    for start in range(0, batch, GROUP):
        n = start + tl.arange(0, GROUP).to(tl.int64)
        exists = n < batch
        at = (grad + n * grad_n + l * grad_l)[:, None] + column[None, :] * grad_d
        value = tl.load(at, mask=exists[:, None] & within[None, :], other=0).to(COMPUTE)
        all_sum += tl.sum(value, axis=0)
        if TOKEN:
            token = exists & (n * 0 + l >= prefix)  # the interpreter masks with vectors alone
            id = tl.load(ids + n * id_n + (l - prefix) * id_k, mask=token, other=0)
            token = token & ((id < 0) | (id >= kept))
            token_sum += tl.sum(tl.where(token[:, None], value, 0), axis=0)
    if POS:
        tl.store(pos + l * dim + column, all_sum, mask=within)
    if TOKEN:
        tl.store(partial + l * dim + column, token_sum, mask=within)


@triton.jit
def _positions_kernel(
    tokens, pos, ids, out, rows, count, length, dim, stride_n, stride_k, stride_d, id_n, id_k,
    COMPUTE: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[n, k] = tokens[n, k] + pos[ids[n, k]]; NaN for an id out of range."""
    row, n, k = _rows(count, WIDE, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    exists = row < rows
    within = column[None, :] < dim
    id = tl.load(ids + n * id_n + k * id_k, mask=exists, other=-1)
    inside = (id >= 0) & (id < length)
    source = (tokens + n * stride_n + k * stride_k)[:, None] + column[None, :] * stride_d
    value = tl.load(source, mask=exists[:, None] & within, other=0).to(COMPUTE)
    where = pos + (id * dim)[:, None] + column[None, :]
    value += tl.load(where, mask=inside[:, None] & within, other=float("nan")).to(COMPUTE)
    tl.store(out + (row * dim)[:, None] + column[None, :], value, mask=exists[:, None] & within)


@triton.jit
def _patches_kernel(
    images, ids, mean, std, out, count, patches, across,
    stride_n, stride_c, stride_h, stride_w, id_n, id_k,
    COMPUTE: tl.constexpr, NORMALISED: tl.constexpr, CHANNELS: tl.constexpr,
    PATCH_H: tl.constexpr, PATCH_W: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """One patch, PIXELS of its CHANNELS * PATCH_H * PATCH_W pixels at a time; `across` of them lie
    in a row.
    """
    row = tl.program_id(0)
    n = (row // count).to(tl.int64)
    one = tl.arange(0, 1)  # the interpreter masks with vectors alone
    id = tl.load(ids + n * id_n + (row % count).to(tl.int64) * id_k + one)
    inside = (id >= 0) & (id < patches)
    place = tl.where(inside, id, 0).to(tl.int32)
    y = (place // across * PATCH_H).to(tl.int64)
    x = (place % across * PATCH_W).to(tl.int64)
    first = images + n * stride_n + y * stride_h + x * stride_w
    i = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    size: tl.constexpr = CHANNELS * PATCH_H * PATCH_W
    within = i < size
    channel = i // (PATCH_H * PATCH_W)
    y = i // PATCH_W % PATCH_H
    x = i % PATCH_W
    if WIDE:
        channel, y, x = channel.to(tl.int64), y.to(tl.int64), x.to(tl.int64)
    at = first + (channel * stride_c + y * stride_h + x * stride_w)
    value = tl.load(at, mask=within & inside, other=0).to(COMPUTE)
    if NORMALISED:
        value -= tl.load(mean + channel, mask=within, other=0).to(COMPUTE)
        value /= tl.load(std + channel, mask=within, other=1).to(COMPUTE)
    value = tl.where(inside, value, float("nan"))
    tl.store(out + row.to(tl.int64) * size + i, value, mask=within)
