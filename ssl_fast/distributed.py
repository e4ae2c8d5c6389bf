"""Rows of many processes: who holds which, gathers and sums of them, in few words.

The collectives are torch's functional ones, which `torch.compile` can trace. They stand between
local ops in Python: no process group enters an op. Every rank calls the same collectives in the
same order, whatever its data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

Group = Any  # a torch.distributed.ProcessGroup, which is missing where torch is built without


@dataclass(frozen=True)
class Share:
    """Which of the rows of a global batch are this process's.

    Attributes:
        group: the process group.
        rank: of this process in it.
        counts: how many rows each rank has.
    """

    group: Group
    rank: int
    counts: tuple[int, ...]

    @property
    def count(self) -> int:
        """Rows of this process."""
        return self.counts[self.rank]

    @property
    def offset(self) -> int:
        """Place of this process's first row among all."""
        return sum(self.counts[: self.rank])

    @property
    def total(self) -> int:
        """Rows of all processes."""
        return sum(self.counts)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return len(self.counts)

    @property
    def factor(self) -> float:
        """What makes a mean over rows of this process its part of the mean over all rows.

        Parts are averaged over ranks afterwards, as DistributedDataParallel does with gradients, so
        that this is 1 where all ranks have as many rows.
        """
        return self.world_size * self.count / self.total

    def times(self, number: int) -> Share:
        """The share of rows of which there are `number` for each of these."""
        return Share(self.group, self.rank, tuple(number * count for count in self.counts))


def check_group(group: Group) -> None:
    """Raises unless `group` is None or a process group that this process is in.

    Raises:
        RuntimeError: if torch.distributed has not been initialised.
        TypeError: for anything but a process group or None.
        ValueError: for a group of other processes.
    """
    if group is None:
        return
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "group is given, but torch.distributed is not initialised; call "
            "torch.distributed.init_process_group first, or leave group out for one process"
        )
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"group is a {type(group).__name__}; expected a torch.distributed.ProcessGroup, such "
            f"as torch.distributed.group.WORLD, or None"
        )
    if dist.get_rank(group) < 0:
        raise ValueError("this process is not in the group")


def world_size(group: Group) -> int:
    """Number of processes in a group; 1 for None."""
    return 1 if group is None else dist.get_world_size(group)


def default_group() -> Group:
    """The group of all processes where torch.distributed is initialised with several, else None."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return dist.group.WORLD
    return None


def share_of(count: int, group: Group, uneven: bool, device: torch.device) -> Share:
    """Which rows of the global batch are these `count` rows.

    Args:
        count: rows of this process.
        group: a process group.
        uneven: whether ranks may have different numbers of rows. They are exchanged then, which
            waits for the device; else every rank must have `count`.
        device: of the rows.

    Raises:
        ValueError: if no process has rows.
    """
    ranks = dist.get_world_size(group)
    counts = [count] * ranks
    if uneven and ranks > 1:
        counts = _gathered(torch.tensor([count], device=device), group).tolist()
    if not any(counts):
        raise ValueError("no process has rows; the mean over nothing is not defined")
    return Share(group, dist.get_rank(group), tuple(counts))


def gather_rows(x: Tensor, share: Share) -> Tensor:
    """The rows of all ranks, in their order; differentiable.

    Args:
        x: [share.count, ...], contiguous or not.

    Returns:
        [share.total, ...]. Backward, each rank gets the sum over ranks of its rows' gradients.
    """
    if share.world_size == 1:
        return x
    most = max(share.counts)
    x = _padded(x, most).contiguous()
    if x.requires_grad:
        x = _all_gather("_autograd")(x, 0, share.group)
        x = _functional().wait_tensor(x)
    else:
        x = _gathered(x, share.group)
    if min(share.counts) == most:
        return x
    return torch.cat(
        [part[:count] for part, count in zip(x.split(most), share.counts, strict=True)]
    )


def all_reduce(x: Tensor, operation: str, group: Group) -> Tensor:
    """The elementwise sum or maximum over ranks; not differentiable, `x` stays as it is.

    Args:
        operation: "sum" or "max".
        group: None for one process.
    """
    if world_size(group) == 1:
        return x
    functional = _functional()
    return functional.wait_tensor(functional.all_reduce(x.detach().contiguous(), operation, group))


def all_logsumexp(x: Tensor, group: Group) -> Tensor:
    """log of the sum over ranks of exp(x), element by element; not differentiable."""
    if world_size(group) == 1:
        return x
    most = all_reduce(x, "max", group)
    # -inf on every rank is no term anywhere: it must not become NaN.
    shift = torch.where(most.isinf(), torch.zeros_like(most), most)
    return all_reduce((x - shift).exp(), "sum", group).log() + shift


def _gathered(x: Tensor, group: Group) -> Tensor:
    gathered: Tensor = _functional().wait_tensor(_all_gather()(x.detach(), 0, group))
    return gathered


def _padded(x: Tensor, rows: int) -> Tensor:
    """Zeros below, up to `rows` rows: collectives want the same size of every rank."""
    return x if x.shape[0] == rows else F.pad(x, (0, 0) * (x.dim() - 1) + (0, rows - x.shape[0]))


def _all_gather(kind: str = "") -> Any:
    # torch 2.13 has renamed it, and warns of the old name.
    functional = _functional()
    renamed = getattr(functional, f"all_gather_single{kind}", None)
    return renamed or getattr(functional, f"all_gather_tensor{kind}")


def _functional() -> Any:
    # Imported when wanted: it takes a while, and torch may be built without it.
    import torch.distributed._functional_collectives as functional

    return functional
