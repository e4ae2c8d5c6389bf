"""Kept tokens back in their places, mask tokens where none was kept: what a MAE decoder sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._dispatch import register
from ..masks.arguments import check_int
from . import reference
from .arguments import check_device, check_float, check_ids


def restore_tokens(
    x_kept: Tensor,
    ids_restore: Tensor,
    mask_token: Tensor,
    pos_embed: Tensor | None = None,
    num_prefix_tokens: int = 0,
) -> Tensor:
    """Each token l is kept token `ids_restore[l]` if that is below K, else the mask token.

    Positions are added to all of them. Prefix (class) tokens stand first and stay there. In one
    pass, with no concatenation of mask tokens.

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners" (2022).

    Args:
        x_kept: [N, P + K, D] float16, bfloat16, float32 or float64, any strides.
        ids_restore: [N, L] int64 in 0 .. L - 1, as `random_masking` returns it.
        mask_token: [D], or [1, 1, D].
        pos_embed: [P + L, D], or [1, P + L, D], or None.
        num_prefix_tokens: P.

    Returns:
        [N, P + L, D] of the promoted dtype of all inputs, also under autocast. Gradients are summed
        in float32 (float64 for float64): of mask_token and pos_embed over groups of samples, of a
        token that stands in several places over these, ascending. The order depends on the shapes
        alone. Differentiable once.

    Raises:
        TypeError, ValueError: for another type, shape, device or range.
    """
    check_float("x_kept", x_kept, "[N, P + K, D]", 3)
    check_int("num_prefix_tokens", num_prefix_tokens, 0)
    rows, dim = x_kept.shape[1:]
    if num_prefix_tokens > rows:
        raise ValueError(f"num_prefix_tokens is {num_prefix_tokens}; x_kept has {rows} tokens")
    length = (
        ids_restore.shape[1] if isinstance(ids_restore, Tensor) and ids_restore.dim() == 2 else 0
    )
    check_ids("ids_restore", ids_restore, x_kept, length)
    if rows - num_prefix_tokens > length:
        raise ValueError(f"{rows - num_prefix_tokens} tokens were kept of {length}")
    mask_token = _parameter("mask_token", mask_token, x_kept, (dim,), "[D]")
    dtype = torch.promote_types(x_kept.dtype, mask_token.dtype)
    if pos_embed is not None:
        shape = (num_prefix_tokens + length, dim)
        pos_embed = _parameter("pos_embed", pos_embed, x_kept, shape, "[P + L, D]")
        dtype = torch.promote_types(dtype, pos_embed.dtype)
        pos_embed = pos_embed.to(dtype)
    return _restore_tokens(x_kept, ids_restore, mask_token.to(dtype), pos_embed, num_prefix_tokens)


def _parameter(name: str, value: Any, x: Tensor, shape: tuple[int, ...], names: str) -> Tensor:
    """`value` without the leading ones that MAE's parameters have."""
    check_float(name, value, names, value.dim() if isinstance(value, Tensor) else 0)
    check_device(name, value, x)
    lead = value.dim() - len(shape)
    if lead < 0 or tuple(value.shape) != (1,) * lead + shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {names}, here {shape}")
    return value.reshape(shape)


def _fake(
    x_kept: Tensor,
    ids_restore: Tensor,
    mask_token: Tensor,
    pos_embed: Tensor | None,
    num_prefix_tokens: int,
) -> Tensor:
    size = (x_kept.shape[0], num_prefix_tokens + ids_restore.shape[1], x_kept.shape[2])
    return x_kept.new_empty(size, dtype=mask_token.dtype)


def _backward_fake(
    grad: Tensor,
    ids_restore: Tensor,
    num_prefix_tokens: int,
    num_kept: int,
    x_dtype: torch.dtype,
    needs_x: bool,
    needs_mask_token: bool,
    needs_pos: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, rows, dim = grad.shape
    x_size = (batch, num_prefix_tokens + num_kept, dim) if needs_x else (0, 0, 0)
    return (
        grad.new_empty(x_size, dtype=x_dtype),
        grad.new_empty((dim if needs_mask_token else 0,)),
        grad.new_empty((rows, dim) if needs_pos else (0, 0)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x_kept, ids_restore, _, _, num_prefix_tokens = inputs
    ctx.save_for_backward(ids_restore)
    ctx.num_prefix_tokens = num_prefix_tokens
    ctx.num_kept = x_kept.shape[1] - num_prefix_tokens
    ctx.x_dtype = x_kept.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (ids_restore,) = ctx.saved_tensors
    needs_x, _, needs_mask_token, needs_pos, _ = ctx.needs_input_grad
    x_kept, mask_token, pos_embed = _restore_tokens_backward(
        grad,
        ids_restore,
        ctx.num_prefix_tokens,
        ctx.num_kept,
        ctx.x_dtype,
        needs_x,
        needs_mask_token,
        needs_pos,
    )
    return (
        x_kept if needs_x else None,
        None,
        mask_token if needs_mask_token else None,
        pos_embed if needs_pos else None,
        None,
    )


_restore_tokens = register(
    "restore_tokens(Tensor x_kept, Tensor ids_restore, Tensor mask_token, Tensor? pos_embed, "
    "SymInt num_prefix_tokens) -> Tensor",
    reference=reference.restore_tokens,
    fake=_fake,
    triton=True,
    backward=_backward,
    setup_context=_setup_context,
)
_restore_tokens_backward = register(
    "restore_tokens_backward(Tensor grad, Tensor ids_restore, SymInt num_prefix_tokens, "
    "SymInt num_kept, ScalarType x_dtype, bool needs_x, bool needs_mask_token, bool needs_pos) "
    "-> (Tensor, Tensor, Tensor)",
    reference=reference.restore_tokens_backward,
    fake=_backward_fake,
    triton=True,
)
