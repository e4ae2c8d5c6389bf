"""InfoNCE: queries find their keys among others, or among a queue of keys seen before.

Sources: van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (2018);
He et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import distributed
from ..._dispatch import formed_in_forward, register
from ...distributed import Group
from . import reference, small
from .arguments import (
    check_features,
    check_pairs,
    check_rows,
    empty_outputs,
    operands,
    scale_of_temperature,
    wants_gradient,
)


def info_nce(
    query: Tensor,
    keys: Tensor,
    targets: Tensor | None = None,
    temperature: Tensor | float = 0.1,
    *,
    group: Group = None,
    uneven: bool = False,
) -> Tensor:
    """Cross entropy of each query's similarities to all keys, with its own key as the class.

    Nothing is normalised; no matrix of similarities is stored.

    Args:
        query: [N, D]; float16, bfloat16, float32 or float64, any strides.
        keys: [M, D]. Without `requires_grad`, as MoCo v3's, their gradient costs nothing.
        targets: [N] int64 in 0 .. M - 1, the row of each query's key; None for 0 .. N - 1. On the
            CPU they are looked at; on a GPU it is for the caller that they are in range.
        temperature: divides the similarities: a positive number or a tensor of one element.
        group: a process group: keys of all processes are gathered (targets are rows of this
            process's own), and loss and gradients are those of the global batch, as in `nt_xent`.
        uneven: whether processes may have different N and M.

    Returns:
        The loss, a float32 scalar (float64 for float64). Differentiable once, to query, keys and
        temperature.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: for another shape, device or value, or no rows.
    """
    check_features(query=query, keys=keys)
    distributed.check_group(group)
    check_rows(group, query=query, keys=keys)
    scale = scale_of_temperature(temperature, query)
    targets = _targets(targets, query, keys)
    query, keys = operands(query, keys)
    factor = 1.0
    if group is not None:
        rows = distributed.share_of(query.shape[0], group, uneven, query.device)
        columns = distributed.share_of(keys.shape[0], group, uneven, query.device)
        factor = rows.factor
        keys = distributed.gather_rows(keys, columns)
        targets = targets + columns.offset
    elif small.is_small("info_nce", query, keys):
        return small.info_nce(query, keys, targets, scale)
    with_keys = wants_gradient(keys)
    with_gradient = with_keys or wants_gradient(query, scale)
    loss: Tensor = _info_nce(query, keys, targets, scale, with_gradient, with_keys)[0]
    return loss if group is None else loss * factor


def info_nce_queue(
    query: Tensor,
    positive: Tensor,
    queue: Tensor,
    temperature: Tensor | float = 0.07,
    *,
    group: Group = None,
    uneven: bool = False,
) -> Tensor:
    """Cross entropy of each query's similarity to its positive against those to a queue: MoCo's.

    Nothing is normalised. The queue gets no gradient, is not copied and is not read again in the
    backward: it may be overwritten as soon as this returns.

    Args:
        query, positive: [N, D]; float16, bfloat16, float32 or float64, any strides.
        queue: [K, D], any strides: mmpretrain's buffer of [D, K] comes as `queue.t()`.
        temperature: divides the similarities: a positive number or a tensor of one element.
        group: a process group: loss and gradients are those of the global batch, as in `nt_xent`.
            The queue is each process's own, which is the same everywhere if all of them enqueue
            the keys of all.
        uneven: whether processes may have different N.

    Returns:
        The loss, a float32 scalar (float64 for float64); 0 for an empty queue. Differentiable once,
        to query, positive and temperature.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: for another shape, device or value, or no rows.
    """
    check_features(query=query, positive=positive, queue=queue)
    distributed.check_group(group)
    check_pairs(group, query=query, positive=positive)
    scale = scale_of_temperature(temperature, query)
    query, positive, queue = operands(query, positive, queue.detach())
    factor = 1.0
    if group is not None:
        factor = distributed.share_of(query.shape[0], group, uneven, query.device).factor
    with_gradient = wants_gradient(query, positive, scale)
    loss: Tensor = _info_nce_queue(query, positive, queue, scale, with_gradient)[0]
    return loss if group is None else loss * factor


def _targets(targets: Any, query: Tensor, keys: Tensor) -> Tensor:
    rows, columns = query.shape[0], keys.shape[0]
    if targets is None:
        if rows > columns:
            raise ValueError(f"there are {rows} queries and {columns} keys; give targets")
        return torch.arange(rows, device=query.device)
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
        got = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
        raise TypeError(f"targets is {got}; expected an int64 tensor [N] or None")
    if targets.shape != (rows,):
        raise ValueError(f"targets has shape {tuple(targets.shape)}; expected ({rows},)")
    if targets.device != query.device:
        raise ValueError(f"targets is on {targets.device}, query on {query.device}")
    if targets.device.type == "cpu" and not torch.compiler.is_compiling() and rows:
        low, high = torch.aminmax(targets)
        if low < 0 or high >= columns:
            raise ValueError(
                f"targets is in {int(low)} .. {int(high)}; there are {columns} keys, counted from 0"
            )
    return targets


def _fake(query: Tensor, keys: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    with_gradient, with_keys = rest[-2:]
    shapes = (query.shape, keys.shape if with_keys else (0,), ())
    return empty_outputs(query, shapes, with_gradient)


def _fake_queue(query: Tensor, positive: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return empty_outputs(query, (query.shape, positive.shape, ()), rest[-1])


_info_nce = register(
    "info_nce(Tensor query, Tensor keys, Tensor targets, Tensor scale, bool with_gradient, "
    "bool with_keys) -> (Tensor, Tensor, Tensor, Tensor)",
    reference=reference.info_nce,
    fake=_fake,
    triton=True,
    **formed_in_forward((0, 1, 3)),
)
_info_nce_queue = register(
    "info_nce_queue(Tensor query, Tensor positive, Tensor queue, Tensor scale, "
    "bool with_gradient) -> (Tensor, Tensor, Tensor, Tensor)",
    reference=reference.info_nce_queue,
    fake=_fake_queue,
    triton=True,
    **formed_in_forward((0, 1, 3)),
)
