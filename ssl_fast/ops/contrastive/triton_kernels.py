"""The contrastive losses on a GPU, and which of two ways goes through the similarities."""

from __future__ import annotations

import functools
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
# Up to this many channels, by the bytes of one, a panel's way through memory takes longer than
# products done twice. See bench/results/README.md; of TF32 by counts alone.
FUSED_UP_TO = {2: 256, 4: 128}
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


def tf32_allowed() -> bool:
    """Whether torch's settings let products of float32 matrices be rounded to TF32."""
    # Not `allow_tf32`, which raises once this has been set.
    setting: str = torch.backends.cuda.matmul.fp32_precision
    return setting == "tf32"


def _make(pairs: Pairs) -> Way:
    if _forced is None and len(pairs.rows) * len(pairs.columns) <= WIDENED_UP_TO:
        pairs = _widened(pairs)
    tf32 = pairs.rows.dtype == torch.float32 and pairs.rows.is_cuda and tf32_allowed()
    short = pairs.rows.shape[1] <= FUSED_UP_TO.get(pairs.rows.element_size(), 0)
    wanted = _forced or ("fused" if short else "panels")
    return FusedWay(pairs, tf32) if wanted == "fused" and takes(pairs, tf32) else PanelWay(pairs)


def _widened(pairs: Pairs) -> Pairs:
    dtype = compute_dtype(pairs.rows.dtype)
    rows = pairs.rows.to(dtype)
    columns = rows if pairs.symmetric else pairs.columns.to(dtype)
    return replace(pairs, rows=rows, columns=columns)


def _launcher(loss: Callable[..., Outputs], strided: int = -1) -> Callable[..., Outputs]:
    """The op of this name: its tensors with rows of contiguous numbers, products not autocast.

    Args:
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
            return loss(_make, *packed)
        with torch.autocast(device, enabled=False):
            return loss(_make, *packed)

    return launch


nt_xent = _launcher(pairwise.nt_xent)
info_nce = _launcher(pairwise.info_nce)
info_nce_queue = _launcher(pairwise.info_nce_queue, strided=2)
clip_loss = _launcher(pairwise.clip_loss)
siglip_loss = _launcher(pairwise.siglip_loss)
similarity_logsumexp = _launcher(pairwise.similarity_logsumexp)
similarity_gradients = _launcher(pairwise.similarity_gradients)
