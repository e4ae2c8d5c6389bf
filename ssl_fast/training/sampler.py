"""Which images make which batch: a function of the seed, so that any run can be taken up again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from ..random import derive_seed

Key = tuple[int, int]  # (epoch, position in the data set)


class EpochSampler(Sampler[list[Key]]):
    """A batch sampler whose global batches depend on the seed and the step alone.

    Each epoch is a new permutation of the samples; what is left of it after the last whole batch is
    dropped. With fewer samples than a batch takes, each step is an epoch, and the batches are cut
    from the permutations one after the other: a batch then holds samples twice, under different
    epochs and so with different crops.

    A batch is cut into `accumulate` parts and each part into one slice for each rank, so that
    neither changes what a step sees.

    Args:
        num_samples: samples in the data set.
        batch_size: samples of one step of the optimiser, over all ranks and parts together.
        seed: of the run.
        rank: of this process.
        world_size: number of processes.
        accumulate: parts in which a batch is computed.
        start_step: the first step, for a run that is taken up again.
        total_steps: the step to stop before.

    Raises:
        ValueError: for numbers that are out of range or do not divide.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        start_step: int = 0,
        total_steps: int,
    ) -> None:
        for name, value in (
            ("num_samples", num_samples),
            ("batch_size", batch_size),
            ("world_size", world_size),
            ("accumulate", accumulate),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; expected 0 to {world_size - 1}")
        if not 0 <= start_step <= total_steps:
            raise ValueError(
                f"start_step is {start_step}; expected 0 to total_steps ({total_steps})"
            )
        if batch_size % (world_size * accumulate):
            raise ValueError(
                f"batch_size is {batch_size}; expected a multiple of {world_size * accumulate}: "
                f"{world_size} processes times {accumulate} accumulated parts"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.accumulate = accumulate
        self.start_step = start_step
        self.total_steps = total_steps
        self.steps_per_epoch = max(num_samples // batch_size, 1)

    def __len__(self) -> int:
        """Micro-batches that this rank still gets."""
        return (self.total_steps - self.start_step) * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        """Micro-batch after micro-batch, the keys of this rank."""
        size = self.batch_size // (self.world_size * self.accumulate)
        epoch, order = -1, np.empty(0, np.int64)
        for step in range(self.start_step, self.total_steps):
            batch: list[Key] = []
            for part, start, end in self._pieces(step):
                if part != epoch:
                    epoch, order = part, self.order(part)
                batch += [(part, position) for position in order[start:end].tolist()]
            for piece in range(self.rank, self.accumulate * self.world_size, self.world_size):
                yield batch[piece * size : (piece + 1) * size]

    def order(self, epoch: int) -> np.ndarray:
        """The permutation of an epoch, [num_samples] int64."""
        random = np.random.Generator(np.random.Philox(key=derive_seed(self.seed, epoch)))
        return random.permutation(self.num_samples)

    def _pieces(self, step: int) -> Iterator[tuple[int, int, int]]:
        """The slices (epoch, start, end) of epochs' permutations that make the batch of a step."""
        if self.num_samples >= self.batch_size:
            epoch, place = divmod(step, self.steps_per_epoch)
            yield epoch, place * self.batch_size, (place + 1) * self.batch_size
            return
        start, end = step * self.batch_size, (step + 1) * self.batch_size
        while start < end:
            epoch, place = divmod(start, self.num_samples)
            taken = min(self.num_samples - place, end - start)
            yield epoch, place, place + taken
            start += taken
