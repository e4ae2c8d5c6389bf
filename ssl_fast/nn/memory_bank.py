"""A queue of keys: the negatives of MoCo, beyond those of the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.masks.arguments import check_int


class MemoryBank(nn.Module):
    """The last `size` keys that were put in, the oldest overwritten first.

    Reading costs nothing: the losses take `bank` as it lies, and do not read it again in the
    backward, so that there is no need to clone it before new keys come in.

    Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (2020).

    Args:
        size: K, number of keys.
        dim: D, size of a key.
        persistent: whether it is part of the state dict.

    Attributes:
        bank: [K, D] float32; random directions at first.
        pointer: int64 scalar, the row that is overwritten next. On the device of the bank: nothing
            waits for it.

    Raises:
        TypeError, ValueError: for a size that is not an int of 1 or more.
    """

    bank: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, persistent: bool = True) -> None:
        super().__init__()
        check_int("size", size, 1)
        check_int("dim", dim, 1)
        bank = nn.functional.normalize(torch.randn(size, dim), dim=1)
        self.register_buffer("bank", bank, persistent)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64), persistent)

    @property
    def size(self) -> int:
        """Number of keys."""
        return self.bank.shape[0]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Puts keys in, over the oldest ones. Of more than fit, the last remain.

        Args:
            keys: [N, D], any floating-point type; detached.

        Raises:
            TypeError: for anything but a floating-point tensor.
            ValueError: for another shape or device.
        """
        if not isinstance(keys, Tensor) or not keys.is_floating_point():
            got = keys.dtype if isinstance(keys, Tensor) else type(keys).__name__
            raise TypeError(f"keys is {got}; expected a floating-point tensor")
        if keys.dim() != 2 or keys.shape[1] != self.bank.shape[1]:
            raise ValueError(
                f"keys has shape {tuple(keys.shape)}; expected [N, {self.bank.shape[1]}]"
            )
        if keys.device != self.bank.device:
            raise ValueError(f"keys is on {keys.device}, the bank on {self.bank.device}")
        skipped = max(keys.shape[0] - self.size, 0)
        count = keys.shape[0] - skipped
        start = self.pointer + skipped
        rows = (start + torch.arange(count, device=keys.device)) % self.size
        self.bank.index_copy_(0, rows, keys[skipped:].to(self.bank.dtype))
        self.pointer.copy_((start + count) % self.size)

    def extra_repr(self) -> str:
        """The sizes, for `print`."""
        return f"size={self.bank.shape[0]}, dim={self.bank.shape[1]}"
