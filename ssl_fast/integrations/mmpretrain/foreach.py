"""Lists of tensors for torch's operators that take many at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor


def grouped(rows: Iterable[Sequence[Tensor]]) -> Iterator[list[list[Tensor]]]:
    """Rows of tensors, such as (weight, gradient), as columns for one call each.

    On a GPU all rows of equal types share a call, which is one launch. On a CPU each row is alone:
    its tensors are in the cache from one operation to the next.

    Yields:
        One list of tensors for each place in a row. The first tensor's device is that of all.
    """
    groups: dict[object, list[Sequence[Tensor]]] = {}
    for number, row in enumerate(rows):
        device = row[0].device
        moved = [tensor.to(device) for tensor in row]
        dtypes = tuple(tensor.dtype for tensor in moved)
        key = (device, dtypes, number if device.type == "cpu" else -1)
        groups.setdefault(key, []).append(moved)
    for group in groups.values():
        yield [list(column) for column in zip(*group, strict=True)]
