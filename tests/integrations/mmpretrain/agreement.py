"""What mmpretrain computes with the integration, beside what it computes without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_fast.integrations import mmpretrain as integration


class Read(RuntimeError):
    """A value was read: on a GPU the host would have waited for it."""


class NoReads(TorchDispatchMode):
    """Raises `Read` where a tensor's value is read."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            raise Read(str(function))
        return function(*args, **(kwargs or {}))


def both(call: Callable[[], Any], seed: int = 0) -> tuple[Any, Any]:
    """The results with the integration and without, from the same random state."""
    with integration.enable(quiet=True):
        _seed(seed)
        ours = call()
    with integration.disable():
        _seed(seed)
        return ours, call()


def same(ours: Any, theirs: Any, **tolerance: float) -> None:
    """Fails unless the tensors of two sequences agree, in dtype and shape too."""
    assert type(ours) is type(theirs)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)


def alike(ours: Any, theirs: Any, share: float) -> None:
    """As `same`, where rounding is coarse: differences are at most this share of each tensor."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        difference = (one.double() - other.double()).norm()
        assert difference <= share * other.double().norm() + 1e-6


def no_worse(ours: Any, theirs: Any, truth: Any) -> None:
    """Ours are at most twice as far from the truth as theirs, or within a hundredth of it."""
    for one, other, true in zip(ours, theirs, truth, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        error, allowed = ((t.double() - true.double()).norm() for t in (one, other))
        assert error <= 2 * allowed + 0.01 * true.double().norm()
