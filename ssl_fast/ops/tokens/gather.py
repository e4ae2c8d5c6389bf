"""Tokens chosen by index: what a masked encoder sees."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..._dispatch import register
from . import reference
from .arguments import check_float, check_ids


def gather_tokens(x: Tensor, ids: Tensor) -> Tensor:
    """Tokens `ids` of each sample, in that order.

    `torch.gather` with no index of D columns to store; differentiable in x, once.

    Args:
        x: [N, L, D] float16, bfloat16, float32 or float64, any strides.
        ids: [N, K] int64 in 0 .. L - 1, repeated or not. On a GPU an id out of range gives a token
            of NaN (looking would be a synchronisation).

    Returns:
        [N, K, D] of x's dtype, also under autocast. In the gradient of x, tokens with the same id
        are summed in float32 (float64 for float64) with k ascending; a token not chosen gets zero.

    Raises:
        TypeError, ValueError: for another type, shape, device or range.
    """
    check_float("x", x, "[N, L, D]", 3)
    check_ids("ids", ids, x, x.shape[1])
    return gathered(x, ids)


def gathered(x: Tensor, ids: Tensor) -> Tensor:
    """`gather_tokens` of checked arguments."""
    return _gather_tokens(x, ids)


def sum_by_id(grad: Tensor, ids: Tensor, length: int) -> Tensor:
    """[N, K, D] to [N, length, D]: the gradient of `gather_tokens`."""
    return _gather_tokens_backward(grad, ids, length)


def _fake(x: Tensor, ids: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], ids.shape[1], x.shape[2]))


def _backward_fake(grad: Tensor, ids: Tensor, length: int) -> Tensor:
    return grad.new_empty((grad.shape[0], length, grad.shape[2]))


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    x, ids = inputs
    ctx.save_for_backward(ids)
    ctx.length = x.shape[1]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (ids,) = ctx.saved_tensors
    return _gather_tokens_backward(grad, ids, ctx.length), None


_gather_tokens = register(
    "gather_tokens(Tensor x, Tensor ids) -> Tensor",
    reference=reference.gather_tokens,
    fake=_fake,
    triton=True,
    backward=_backward,
    setup_context=_setup_context,
)
_gather_tokens_backward = register(
    "gather_tokens_backward(Tensor grad, Tensor ids, SymInt length) -> Tensor",
    reference=reference.gather_tokens_backward,
    fake=_backward_fake,
    triton=True,
)
