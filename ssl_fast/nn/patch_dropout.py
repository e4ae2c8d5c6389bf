"""Patch dropout: training a vision transformer on a part of each image's tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import random_mask
from ..ops.masks.arguments import check_int, check_ratio
from ..ops.tokens.arguments import check_float
from ..ops.tokens.gather import gathered


class PatchDropout(nn.Module):
    """Keeps a random part of the tokens of each sample while training; all of them in evaluation.

    Constructor, rates and shapes are those of `timm`'s class of this name. Which tokens are kept is
    drawn by `ops.random_mask`, from torch's generator: `torch.manual_seed` rules.

    Source: Liu et al., "PatchDropout: Economizing Vision Transformers Using Patch Dropout" (2022);
    Li et al., "Scaling Language-Image Pre-training via Masking" (2022).

    Args:
        prob: share of the tokens dropped, in [0, 1). At least one is kept.
        num_prefix_tokens: P class and register tokens at the beginning, which always stay.
        ordered: whether the tokens kept stay in their order; it makes no difference to a
            transformer with positions already added.
        return_indices: whether `forward` returns (tokens, ids) instead of tokens.

    Raises:
        TypeError, ValueError: for an argument of another type or out of range.
    """

    def __init__(
        self,
        prob: float = 0.5,
        num_prefix_tokens: int = 1,
        ordered: bool = False,
        return_indices: bool = False,
    ) -> None:
        super().__init__()
        check_ratio("prob", prob)
        if prob == 1:
            raise ValueError("prob is 1; accepted are 0 to less than 1")
        check_int("num_prefix_tokens", num_prefix_tokens, 0)
        self.prob = prob
        self.num_prefix_tokens = num_prefix_tokens
        self.ordered = ordered
        self.return_indices = return_indices

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        """Drops tokens.

        Args:
            x: [N, P + L, D] float16, bfloat16, float32 or float64, any strides.

        Returns:
            [N, P + K, D] of x's dtype with K = max(1, int(L * (1 - prob))); x itself in evaluation
            and where prob is 0. With `return_indices` also the ids of the tokens kept, [N, K]
            int64 in 0 .. L - 1, prefix tokens not counted; None where x was returned.

        Raises:
            TypeError, ValueError: for an input of another type or shape.
        """
        if not self.training or self.prob == 0:
            return (x, None) if self.return_indices else x
        check_float("x", x, "[N, P + L, D]", 3)
        batch, rows, _ = x.shape
        length = rows - self.num_prefix_tokens
        kept = max(1, int(length * (1 - self.prob)))
        ids = random_mask(batch, length, 0.0, device=x.device)[0][:, :kept]
        if self.ordered:
            ids = ids.sort(dim=1).values
        chosen = ids
        if self.num_prefix_tokens:
            prefix = torch.arange(self.num_prefix_tokens, device=x.device).expand(batch, -1)
            chosen = torch.cat([prefix, ids + self.num_prefix_tokens], dim=1)
        tokens = gathered(x, chosen)
        return (tokens, ids) if self.return_indices else tokens

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"prob={self.prob}, num_prefix_tokens={self.num_prefix_tokens}"
