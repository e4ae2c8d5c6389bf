"""The token ops on a GPU: how their kernels are launched."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import sum_dtype
from .triton_rows import (
    _gather_kernel,
    _parameters_kernel,
    _patches_kernel,
    _positions_kernel,
    _restore_kernel,
    _sum_kernel,
)

MAX_COLUMNS = 4096  # of a program; wider rows take several


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
