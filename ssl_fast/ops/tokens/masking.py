"""The random masking of MAE: a mask and the tokens that it leaves.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners" (2022).
"""

from __future__ import annotations

from torch import Tensor

from ..masks import random_mask
from .arguments import check_float
from .gather import gathered


def random_masking(
    x: Tensor,
    mask_ratio: float,
    *,
    seed: int | Tensor | None = None,
    noise: Tensor | None = None,
    sample_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Keeps int(L * (1 - mask_ratio)) tokens of each sample, drawn uniformly.

    `random_mask`, which says what the draws depend on, and `gather_tokens`. Differentiable in x.

    Args:
        x: [N, L, D] float16, bfloat16, float32 or float64, any strides.
        mask_ratio: share of the tokens masked, in [0, 1].
        seed: an int, one int64 on x's device, or None: drawn from torch's generator.
        noise: [N, L], floating point, in place of seed and sample_ids: the result is MAE's.
        sample_ids: [N] int64; None for 0 .. N - 1. Give each rank its own, or dataset indices.

    Returns:
        x_kept: [N, K, D] of x's dtype, the tokens kept, in shuffled order.
        mask: [N, L] float32, 1 where masked.
        ids_restore: [N, L] int64, for `restore_tokens`.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """
    check_float("x", x, "[N, L, D]", 3)
    batch, length, _ = x.shape
    ids_keep, ids_restore, mask = random_mask(
        batch,
        length,
        mask_ratio,
        seed=seed,
        noise=noise,
        sample_ids=sample_ids,
        device=x.device,
    )
    return gathered(x, ids_keep), mask, ids_restore
