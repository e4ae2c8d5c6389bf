"""The contrastive losses on a GPU, and which of two ways goes through the similarities."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from . import pairwise
from .pairwise import Outputs, Pairs, Way
from .reference import compute_dtype
from .triton_fused import FusedWay, takes
from .triton_panels import PanelWay

WAYS = ("panels", "fused")
# Up to here half types are multiplied as float32, which takes no longer: rounded weights would be
# further from the truth than torch's own steps, of which few pairs leave nothing to the mean.
WIDENED_UP_TO = 1 << 16
_forced: str | None = None


@contextmanager
def way(name: str) -> Iterator[None]:
    """Forces one of `WAYS` where it can serve, for tests and benches."""
    global _forced
    if name not in WAYS:
        raise ValueError(f"way is {name!r}; accepted are {', '.join(WAYS)}")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def _make(pairs: Pairs, times: int) -> Way:
    pairs = _widened(pairs)
    fused = _forced == "fused" or (_forced is None and _fused_pays(pairs, times))
    return FusedWay(pairs) if fused and takes(pairs) else PanelWay(pairs)


def _fused_pays(pairs: Pairs, times: int) -> bool:
    """Whether to form similarities so many times takes less than a panel's way through memory.

    Fitted to timings of a hundred bfloat16 cases on an H200, see bench/results/README.md: many
    channels are long products, few rows are few programs.
    """
    count, size = pairs.rows.shape
    side = math.sqrt(count * len(pairs.columns))
    return count >= 4 * size and side >= 2**times * max(size**2 / 64, 128)


def _make_panels(pairs: Pairs) -> PanelWay:
    """Of SigLIP: a kernel of its products and logarithms took longer at each shape timed."""
    return PanelWay(_widened(pairs))


def _widened(pairs: Pairs) -> Pairs:
    """Few pairs of half types as float32."""
    if _forced or len(pairs.rows) * len(pairs.columns) > WIDENED_UP_TO:
        return pairs
    dtype = compute_dtype(pairs.rows.dtype)
    rows = pairs.rows.to(dtype)
    columns = rows if pairs.symmetric else pairs.columns.to(dtype)
    return replace(pairs, rows=rows, columns=columns)


def _launcher(
    loss: Callable[..., Outputs], make: Callable[..., object] = _make, strided: int = -1
) -> Callable[..., Outputs]:
    """The op of this name: its tensors with rows of contiguous numbers, products not autocast.

    Args:
        make: chooses the way.
        strided: an argument that only products and copies read, which may keep its strides.
    """

    @functools.wraps(loss)
    def launch(*args: object) -> Outputs:
        device = next(arg for arg in args if isinstance(arg, Tensor)).device.type
        packed = [
            arg.contiguous() if isinstance(arg, Tensor) and at != strided else arg
            for at, arg in enumerate(args)
        ]
        if not torch.is_autocast_enabled(device):  # entering the context costs more than asking
            return loss(make, *packed)
        with torch.autocast(device, enabled=False):
            return loss(make, *packed)

    return launch


nt_xent = _launcher(pairwise.nt_xent)
info_nce = _launcher(pairwise.info_nce)
info_nce_queue = _launcher(pairwise.info_nce_queue, strided=2)
clip_loss = _launcher(pairwise.clip_loss)
siglip_loss = _launcher(pairwise.siglip_loss, _make_panels)
similarity_logsumexp = _launcher(pairwise.similarity_logsumexp)
similarity_gradients = _launcher(pairwise.similarity_gradients)
