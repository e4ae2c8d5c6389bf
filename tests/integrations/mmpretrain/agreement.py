"""What mmpretrain computes with the integration, beside what it computes without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ssl_fast.integrations import mmpretrain as integration


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
