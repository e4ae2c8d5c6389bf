"""The losses of few pairs, in torch's own steps.

One call of an op of ours takes some 100 us with its gradient, most of it Python. Where the matrix
of similarities is so small that torch is done sooner, it is formed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._dispatch import is_forced
from .reference import compute_dtype

# Similarities from which on our kernels are ahead, as measured on two cores; forming more than one
# softmax of them takes torch longer.
PAIRS = {"nt_xent": 48**2, "info_nce": 192**2, "clip_loss": 48**2, "siglip_loss": 128**2}


def is_small(op: str, rows: Tensor, columns: Tensor) -> bool:
    """Whether torch's own steps are faster; never where a backend is forced."""
    return rows.shape[0] * columns.shape[0] <= PAIRS[op] and not is_forced()


def logits_of(rows: Tensor, columns: Tensor, scale: Tensor) -> Tensor:
    """[R, C], in float32 at least."""
    return scale * (rows @ columns.T).to(compute_dtype(rows.dtype))


def nt_xent(z: Tensor, scale: Tensor) -> Tensor:
    """Of z [M, D], row i's positive being row i + M / 2, modulo M."""
    count = z.shape[0]
    logits = logits_of(z, z, scale)
    own = torch.eye(count, dtype=torch.bool, device=z.device)
    targets = torch.arange(count, device=z.device).roll(-(count // 2))
    return F.cross_entropy(logits.masked_fill(own, -torch.inf), targets)


def info_nce(query: Tensor, keys: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Of query [N, D] against keys [M, D]; 0 for no queries."""
    total = F.cross_entropy(logits_of(query, keys, scale), targets, reduction="sum")
    return total / max(query.shape[0], 1)


def clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Of image and text [N, D]."""
    logits = logits_of(image, text, scale)
    targets = torch.arange(image.shape[0], device=image.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def siglip_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, offset: int) -> Tensor:
    """Of image [R, D] and text [C, D], the positive of image i being text i + offset."""
    logits = logits_of(image, text, scale) + bias
    signs = torch.full_like(logits, -1.0)
    signs.diagonal(offset).fill_(1.0)
    return -F.logsigmoid(signs * logits).sum() / max(image.shape[0], 1)
