"""Lists of tensors for torch's operators that take many at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor


def grouped(rows: Iterable[Sequence[Tensor]]) -> Iterator[list[list[Tensor]]]:
    """Rows of tensors, such as (weight, gradient), as columns, those of equal types together.

    On a GPU a call with them is few launches; with mixed types it is one for each tensor.

    Yields:
        One list of tensors for each place in a row, on the device of the first.
    """
    groups: dict[object, list[Sequence[Tensor]]] = {}
    for row in rows:
        device = row[0].device
        moved = [tensor.to(device) for tensor in row]
        key = (device, *(tensor.dtype for tensor in moved))
        groups.setdefault(key, []).append(moved)
    for group in groups.values():
        yield [list(column) for column in zip(*group, strict=True)]
