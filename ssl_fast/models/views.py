"""The views of each image that a multi-view method takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def views_of(inputs: Any, count: int, *, more: bool = False) -> list[Tensor]:
    """The views of a batch, checked.

    Args:
        inputs: a list or tuple of views [N, C, H, W].
        count: how many are expected.
        more: whether there may be more.

    Raises:
        TypeError: for one tensor, or what is no list of tensors.
        ValueError: for another number of views, or views of unequal N.
    """
    expected = f"a list of {count} {'or more ' if more else ''}views [N, C, H, W]"
    if not isinstance(inputs, (list, tuple)):
        got = "one tensor" if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
        raise TypeError(f"inputs are {got}; expected {expected}")
    if others := [type(view).__name__ for view in inputs if not isinstance(view, Tensor)]:
        raise TypeError(f"inputs have a {others[0]}; expected {expected}")
    if len(inputs) < count or (len(inputs) > count and not more):
        raise ValueError(f"inputs are {len(inputs)} views; expected {expected}")
    if len({len(view) for view in inputs}) > 1:
        raise ValueError(f"views have {[len(view) for view in inputs]} images; expected equal ones")
    return list(inputs)
