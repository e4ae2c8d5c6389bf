"""NT-Xent and InfoNCE as modules, NT-Xent with the signature of lightly's `NTXentLoss`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .. import distributed, ops
from ..ops.contrastive.arguments import check_temperature, normalized
from .memory_bank import MemoryBank


class NTXentLoss(nn.Module):
    """SimCLR's loss of two views; with a memory bank, MoCo's.

    Constructor and call are those of lightly's class of this name. With the bank, each row of
    `out0` is to find its row of `out1` among the bank's keys; then `out1` is put in.

    Args:
        temperature: divides the cosine similarities. Lightly's default; SimCLR's is 0.1.
        memory_bank_size: 0 for none, or (size, dim).
        gather_distributed: whether negatives come from all processes, where there are several;
            gradients are those of the global batch then. Their batches are of one size.

    Raises:
        TypeError: for an argument of another type.
        ValueError: for a temperature that is not positive or below 1e-8, or a bank without its dim.

    Attributes:
        persistent_bank: whether the bank is part of the state dict.
    """

    persistent_bank = True

    def __init__(
        self,
        temperature: float = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        if temperature < 1e-8:
            raise ValueError(f"temperature is {temperature}; expected 1e-8 or more")
        self.temperature = temperature
        self.gather_distributed = gather_distributed
        self.memory_bank = _bank_of(memory_bank_size, self.persistent_bank)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            out0, out1: [N, D], the views' embeddings, not normalised. The bank takes `out1` where
                there is a gradient for `out0`: not in validation.

        Returns:
            A scalar, float32 (float64 for float64).

        Raises:
            TypeError, ValueError: as `ops.nt_xent`.
        """
        group = distributed.default_group() if self.gather_distributed else None
        if self.memory_bank is None:
            return ops.nt_xent(out0, out1, self.temperature, group=group)
        query, keys = normalized(out0), normalized(out1)
        bank = self.memory_bank.bank
        loss = ops.info_nce_queue(query, keys, bank, self.temperature, group=group)
        if query.requires_grad:
            if group is not None:
                share = distributed.share_of(len(keys), group, False, keys.device)
                keys = distributed.gather_rows(keys.detach(), share)
            self.memory_bank.enqueue(keys)
        return loss

    def extra_repr(self) -> str:
        """The arguments, for `print`."""
        return f"temperature={self.temperature}, gather_distributed={self.gather_distributed}"


class InfoNCELoss(nn.Module):
    """Queries find their keys among others of the batch, or among a queue.

    Args:
        temperature: divides the similarities.
        gather_distributed: whether keys come from all processes, where there are several.

    Raises:
        TypeError, ValueError: for a temperature that is not a positive number.
    """

    def __init__(self, temperature: float = 0.1, gather_distributed: bool = False) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature
        self.gather_distributed = gather_distributed

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        targets: Tensor | None = None,
        queue: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch, nothing normalised.

        Args:
            query: [N, D].
            keys: [M, D]; with a queue [N, D], the positives.
            targets: [N] int64, each query's row of keys; None for 0 .. N - 1.
            queue: [K, D] negatives, such as `MemoryBank.bank`; the other keys are none then.

        Returns:
            A scalar, float32 (float64 for float64).

        Raises:
            TypeError, ValueError: as `ops.info_nce` and `ops.info_nce_queue`; for targets beside a
                queue.
        """
        group = distributed.default_group() if self.gather_distributed else None
        if queue is None:
            return ops.info_nce(query, keys, targets, self.temperature, group=group)
        if targets is not None:
            raise ValueError("targets are of keys in the batch; with a queue leave them out")
        return ops.info_nce_queue(query, keys, queue, self.temperature, group=group)

    def extra_repr(self) -> str:
        """The arguments, for `print`."""
        return f"temperature={self.temperature}, gather_distributed={self.gather_distributed}"


def _bank_of(size: int | Sequence[int], persistent: bool) -> MemoryBank | None:
    if isinstance(size, int):
        if size == 0:
            return None
        raise ValueError(f"memory_bank_size is {size}; expected 0 or (size, dim)")
    if len(size) != 2:
        raise ValueError(f"memory_bank_size is {tuple(size)}; expected 0 or (size, dim)")
    rows, dim = size
    return MemoryBank(rows, dim, persistent)
