"""What one process computes of a loss over the similarities of many processes' features."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..._dispatch import register
from . import reference


def _fake_logsumexp(
    rows: Tensor,
    columns: Tensor,
    targets: Tensor,
    scale: Tensor,
    self_offset: int,
    over_columns: bool,
) -> tuple[Tensor, ...]:
    dtype = reference.compute_dtype(rows.dtype)
    sizes = (rows.shape[0], columns.shape[0] if over_columns else 0, rows.shape[0])
    return tuple(rows.new_empty((size,), dtype=dtype) for size in sizes)


def _fake_gradients(rows: Tensor, columns: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    with_columns = rest[-1]
    dtype = reference.compute_dtype(rows.dtype)
    shapes = (rows.shape, columns.shape if with_columns else (0,), ())
    return tuple(rows.new_empty(shape, dtype=dtype) for shape in shapes)


similarity_logsumexp = register(
    "similarity_logsumexp(Tensor rows, Tensor columns, Tensor targets, Tensor scale, "
    "SymInt self_offset, bool over_columns) -> (Tensor, Tensor, Tensor)",
    reference=reference.similarity_logsumexp,
    fake=_fake_logsumexp,
    triton=True,
)
similarity_gradients = register(
    "similarity_gradients(Tensor rows, Tensor columns, Tensor targets, Tensor scale, "
    "Tensor row_lse, Tensor column_lse, SymInt self_offset, bool with_columns) "
    "-> (Tensor, Tensor, Tensor)",
    reference=reference.similarity_gradients,
    fake=_fake_gradients,
    triton=True,
)
