"""The token ops in Triton: a program takes rows of one output whole, or in blocks of columns.

A row's address takes 64 bits; its number is divided in 32 bits where it fits, which is several
times as fast. bfloat16 is widened before arithmetic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import sum_dtype

MAX_COLUMNS = 4096  # of a program; wider rows take several


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


def _compute(*dtypes: torch.dtype) -> tl.dtype:
    return tl.float64 if sum_dtype(*dtypes) == torch.float64 else tl.float32


def _blocks(x: Tensor, dim: int) -> tuple[int, int]:
    """Rows and columns of a program. The interpreter pays by the program."""
    columns = min(triton.next_power_of_2(max(dim, 1)), MAX_COLUMNS)
    return max(1, (2048 if x.is_cuda else 1 << 16) // columns), columns


def _over_rows(kernel, out: Tensor, *args, **constants):
    """Launches over all rows of out [N, K, D]."""
    if out.numel() == 0:
        return out
    dim = out.shape[-1]
    total = out.numel() // dim
    rows, columns = _blocks(out, dim)
    grid = (triton.cdiv(total, rows), triton.cdiv(dim, columns))
    wide = grid[0] * rows >= 1 << 31
    kernel[grid](*args, WIDE=wide, ROWS=rows, COLUMNS=columns, **constants)
    return out


def gather_tokens(x: Tensor, ids: Tensor) -> Tensor:
    """Launcher of `ssl_fast::gather_tokens`."""
    batch, length, dim = x.shape
    count = ids.shape[1]
    out = x.new_empty((batch, count, dim))
    return _over_rows(
        _gather_kernel, out, x, ids, out, batch * count, count, length, dim, *x.stride(),
        *ids.stride(),
    )  # fmt: skip


def gather_tokens_backward(grad: Tensor, ids: Tensor, length: int) -> Tensor:
    """Launcher of `ssl_fast::gather_tokens_backward`."""
    return _sum_tokens(grad, ids, 0, length, grad.dtype)


def _sum_tokens(grad: Tensor, ids: Tensor, prefix: int, length: int, dtype: torch.dtype) -> Tensor:
    batch, _, dim = grad.shape
    out = grad.new_empty((batch, prefix + length, dim), dtype=dtype)
    if out.numel() == 0:
        return out
    columns = min(triton.next_power_of_2(dim), MAX_COLUMNS)
    count = ids.shape[1]
    _sum_kernel[(batch * (prefix + length), triton.cdiv(dim, columns))](
        grad, ids, out, count, prefix, length, dim, *grad.stride(), *ids.stride(),
        COMPUTE=_compute(grad.dtype, dtype), IDS=max(16, min(1024, triton.next_power_of_2(count))),
        COLUMNS=columns,
    )  # fmt: skip
    return out


def restore_tokens(
    x_kept: Tensor,
    ids_restore: Tensor,
    mask_token: Tensor,
    pos_embed: Tensor | None,
    num_prefix_tokens: int,
) -> Tensor:
    """Launcher of `ssl_fast::restore_tokens`."""
    batch, rows, dim = x_kept.shape
    length = ids_restore.shape[1]
    out = x_kept.new_empty((batch, num_prefix_tokens + length, dim), dtype=mask_token.dtype)
    mask_token = mask_token.contiguous()
    pos_embed = mask_token if pos_embed is None else pos_embed.contiguous()
    return _over_rows(
        _restore_kernel, out, x_kept, ids_restore, mask_token, pos_embed, out,
        batch * (num_prefix_tokens + length), num_prefix_tokens, rows - num_prefix_tokens, length,
        dim, *x_kept.stride(), *ids_restore.stride(),
        COMPUTE=_compute(out.dtype), POSITIONS=pos_embed is not mask_token,
    )  # fmt: skip


def restore_tokens_backward(
    grad: Tensor,
    ids_restore: Tensor,
    num_prefix_tokens: int,
    num_kept: int,
    x_dtype: torch.dtype,
    needs_x: bool,
    needs_mask_token: bool,
    needs_pos: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launcher of `ssl_fast::restore_tokens_backward`."""
    batch, rows, dim = grad.shape
    x_grad = grad.new_empty((0, 0, 0), dtype=x_dtype)
    if needs_x:
        x_grad = _sum_tokens(grad, ids_restore, num_prefix_tokens, num_kept, x_dtype)
    mask_token = grad.new_empty((dim if needs_mask_token else 0,))
    pos = grad.new_empty((rows, dim) if needs_pos else (0, 0))
    if not (needs_mask_token or needs_pos) or dim == 0:
        return x_grad, mask_token, pos
    wide = sum_dtype(grad.dtype)
    partial = grad.new_empty((rows, dim) if needs_mask_token else (0, dim), dtype=wide)
    columns = min(triton.next_power_of_2(dim), 128 if grad.is_cuda else MAX_COLUMNS)
    if rows != 0:
        _parameters_kernel[(rows, triton.cdiv(dim, columns))](
            grad, ids_restore, pos, partial, batch, num_prefix_tokens, num_kept,
            ids_restore.shape[1], dim, *grad.stride(), *ids_restore.stride(),
            COMPUTE=_compute(grad.dtype), POS=needs_pos, TOKEN=needs_mask_token,
            GROUP=32, COLUMNS=columns,
        )  # fmt: skip
    if needs_mask_token:
        mask_token = partial.sum(dim=0).to(grad.dtype)
    return x_grad, mask_token, pos


def add_positions(tokens: Tensor, pos_embed: Tensor, ids: Tensor) -> Tensor:
    """Launcher of `ssl_fast::add_positions`."""
    batch, count, dim = tokens.shape
    out = tokens.new_empty(tokens.shape, dtype=pos_embed.dtype)
    return _over_rows(
        _positions_kernel, out, tokens, pos_embed.contiguous(), ids, out, batch * count, count,
        pos_embed.shape[0], dim, *tokens.stride(), *ids.stride(), COMPUTE=_compute(out.dtype),
    )  # fmt: skip


def gather_patches(
    images: Tensor,
    ids: Tensor,
    patch_h: int,
    patch_w: int,
    mean: Tensor | None,
    std: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Launcher of `ssl_fast::gather_patches`."""
    batch, channels, height, width = images.shape
    size = channels * patch_h * patch_w
    count = ids.shape[1]
    out = images.new_empty((batch, count, size), dtype=dtype)
    if out.numel() == 0:
        return out
    across = width // patch_w
    last = (channels - 1, patch_h - 1, patch_w - 1)
    span = max(size, sum(map(int.__mul__, last, images.stride()[1:])))
    pixels = min(triton.next_power_of_2(size), 1024 if images.is_cuda else 1 << 16)
    _patches_kernel[(batch * count, triton.cdiv(size, pixels))](
        images, ids, out if mean is None else mean.contiguous(),
        out if std is None else std.contiguous(), out, count, across * (height // patch_h), across,
        *images.stride(), *ids.stride(),
        COMPUTE=_compute(images.dtype, dtype), NORMALISED=mean is not None, CHANNELS=channels,
        PATCH_H=patch_h, PATCH_W=patch_w, WIDE=span >= 1 << 31, PIXELS=pixels,
    )  # fmt: skip
    return out
