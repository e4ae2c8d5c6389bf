"""The token ops in plain torch: the specification, and what runs where no kernel can.

Sums are made in float32 (float64 for float64) and rounded once, in an order that depends on the
shapes alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sum_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """What numbers of these types are summed in."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def _gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x [N, L, D] at rows [N, K], all within range: [N, K, D]."""
    if rows.numel() == 0 or x.shape[2] == 0:
        return _nothing_of(x, (*rows.shape, x.shape[2]))
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))


def _nothing_of(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """No elements, of a gradient of zeros. Where an index selects nothing, or rows of nothing,
    torch's own backward can read out of bounds on a GPU.
    """
    return x.new_zeros(shape) + x.sum()


def gather_tokens(x: Tensor, ids: Tensor) -> Tensor:
    """x [N, L, D] and ids [N, K] to [N, K, D]; an id out of range gives a token of NaN."""
    inside = (ids >= 0) & (ids < x.shape[1])
    return _gather_rows(x, torch.where(inside, ids, 0)).masked_fill(~inside[..., None], torch.nan)


def gather_tokens_backward(grad: Tensor, ids: Tensor, length: int) -> Tensor:
    """grad [N, K, D] and ids [N, K] to [N, length, D]: rows of equal ids summed, k ascending."""
    batch, _, dim = grad.shape
    if grad.numel() == 0:
        return grad.new_zeros((batch, length, dim))
    # A row more for each sample takes what belongs nowhere.
    rows = torch.where((ids >= 0) & (ids < length), ids, length)
    rows = rows + torch.arange(batch, device=ids.device)[:, None] * (length + 1)
    wide = grad.to(sum_dtype(grad.dtype)).flatten(0, 1)
    # Of torch's scattering sums the one that has a fixed order on every device.
    summed = torch.ops.aten.embedding_dense_backward(
        wide, rows.flatten(), batch * (length + 1), -1, False
    )
    return summed.view(batch, length + 1, dim)[:, :length].to(grad.dtype).contiguous()


def restore_tokens(
    x_kept: Tensor,
    ids_restore: Tensor,
    mask_token: Tensor,
    pos_embed: Tensor | None,
    num_prefix_tokens: int,
) -> Tensor:
    """x_kept [N, P + K, D], mask_token [D], pos_embed [P + L, D] to [N, P + L, D] of the latter's
    dtype. An id out of 0 .. K - 1 stands for the mask token.
    """
    batch, rows, _ = x_kept.shape
    kept = is_kept(ids_restore, rows - num_prefix_tokens)
    source = torch.where(kept, num_prefix_tokens + ids_restore, rows)
    prefix = torch.arange(num_prefix_tokens, device=source.device).expand(batch, -1)
    source = torch.cat([prefix, source], dim=1)
    x = F.pad(x_kept.to(mask_token.dtype), (0, 0, 0, 1))  # row `rows` is no token
    restored = torch.where((source == rows)[..., None], mask_token, _gather_rows(x, source))
    return restored if pos_embed is None else restored + pos_embed


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
    """grad [N, P + L, D] to the gradients of x_kept, mask_token, pos_embed; empty if not needed."""
    prefix, tokens = grad[:, :num_prefix_tokens], grad[:, num_prefix_tokens:]
    wide = sum_dtype(grad.dtype)
    x_grad = grad.new_empty((0, 0, 0), dtype=x_dtype)
    mask_token_grad, pos_grad = grad.new_empty(0), grad.new_empty((0, 0))
    if needs_x:
        # Ids from num_kept on belong to no row.
        rows = gather_tokens_backward(tokens.to(wide), ids_restore, num_kept)
        x_grad = torch.cat([prefix.to(wide), rows], dim=1).to(x_dtype)
    if needs_mask_token:
        kept = is_kept(ids_restore, num_kept)
        masked = tokens.to(wide).masked_fill(kept[..., None], 0)
        mask_token_grad = masked.sum(dim=(0, 1)).to(grad.dtype)
    if needs_pos:
        pos_grad = grad.to(wide).sum(dim=0).to(grad.dtype)
    return x_grad, mask_token_grad, pos_grad


def is_kept(ids_restore: Tensor, num_kept: int) -> Tensor:
    """Where a token was kept, by its place among the kept ones."""
    return (ids_restore >= 0) & (ids_restore < num_kept)


def add_positions(tokens: Tensor, pos_embed: Tensor, ids: Tensor) -> Tensor:
    """tokens [N, K, D] + pos_embed [L, D] at ids [N, K], of pos_embed's dtype."""
    inside = (ids >= 0) & (ids < pos_embed.shape[0])
    if tokens.numel() == 0:
        rows = _nothing_of(pos_embed, tuple(tokens.shape))
    else:
        rows = pos_embed[torch.where(inside, ids, 0)]
    return tokens.to(pos_embed.dtype) + rows.masked_fill(~inside[..., None], torch.nan)


def gather_patches(
    images: Tensor,
    ids: Tensor,
    patch_h: int,
    patch_w: int,
    mean: Tensor | None,
    std: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """images [N, C, H, W] and ids [N, K] to normalised patches [N, K, C * patch_h * patch_w]."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch_h, width // patch_w
    patches = images.reshape(batch, channels, rows, patch_h, columns, patch_w)
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    inside = (ids >= 0) & (ids < rows * columns)
    compute = sum_dtype(images.dtype, dtype)
    kept = _gather_rows(patches, torch.where(inside, ids, 0)).to(compute)
    if mean is not None and std is not None:
        each = kept.unflatten(2, (channels, patch_h * patch_w))
        each = (each - mean.to(compute)[:, None]) / std.to(compute)[:, None]
        kept = each.flatten(2)
    return kept.masked_fill(~inside[..., None], torch.nan).to(dtype)
