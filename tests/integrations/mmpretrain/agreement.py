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
    assert type(ours) is type(theirs) and len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
