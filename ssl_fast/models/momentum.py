"""Encoders that follow another one slowly: a moving average of its weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import default_group, gather_rows, share_of


def is_training(model: nn.Module) -> bool:
    """Whether a loss is taken to train with: then encoders follow and queues move on."""
    return model.training and torch.is_grad_enabled()


def gathered(x: Tensor) -> Tensor:
    """The rows of all processes, as queues take them; x where there is one process."""
    group = default_group()
    return x if group is None else gather_rows(x, share_of(len(x), group, False, x.device))


class StepCounter(nn.Module):
    """How many steps of training a model has begun, on the host and in checkpoints.

    A model calls `begin` in its `loss`, so that it counts without a trainer too. What only a
    trainer knows, it says by `tell`.

    Args:
        total: steps of the whole training, if known.

    Attributes:
        count: steps begun, the one at hand included.
        total: steps of the whole training; None where nobody has said.
    """

    def __init__(self, total: int | None = None) -> None:
        super().__init__()
        self.count = 0
        self.total = total
        self._step: int | None = None
        self._begun: int | None = None

    def tell(self, step: int, total: int) -> None:
        """What a trainer says before each forward: equal steps are parts of one.

        Args:
            step: of the optimiser.
            total: steps of the whole training.
        """
        self._step, self.total = step, total

    @torch.compiler.disable
    def begin(self) -> bool:
        """Counts a step; whether it is a new one, and not another part of the last."""
        if self._step is not None and self._step == self._begun:
            return False
        self._begun = self._step
        self.count += 1
        return True

    @torch.compiler.disable
    def over(self, steps: int) -> bool:
        """Whether more than so many steps have begun."""
        return self.count > steps

    @property
    def progress(self) -> float:
        """Share of the training before the step at hand, 0 to 1; 0 if the total is not known."""
        return min(1.0, (self.count - 1) / self.total) if self.total else 0.0

    # Not a buffer: on a GPU, reading it would wait for the device.
    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.count)

    def set_extra_state(self, state: Tensor) -> None:
        self.count = int(state)


class MomentumEncoder(nn.Module):
    """A copy of some modules in a row, whose weights are a moving average of theirs.

    In each step every weight becomes (1 - momentum) * its value + momentum * the online one, and
    buffers, such as the statistics of batch norms, are copied. The first step copies all, since the
    online modules may have been initialised or loaded after the copy was made.

    Sources: He et al., "Momentum Contrast" (2020); for the schedule, Grill et al., "Bootstrap Your
    Own Latent" (2020).

    Args:
        online: the modules that are followed; they are not held here.
        momentum: weight of the online encoder, as in mmpretrain: 0.001 where the papers say 0.999.
        schedule: "constant", or "cosine" for a momentum that falls to 0 over the training.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self, *online: nn.Module, momentum: float = 0.001, schedule: str = "constant"
    ) -> None:
        super().__init__()
        if not 0 <= momentum <= 0.5:
            raise ValueError(
                f"momentum is {momentum}; accepted are 0 to 0.5: it is the weight of the online "
                f"encoder, 1 minus the papers' momentum"
            )
        if schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule is {schedule!r}; accepted are 'constant' and 'cosine'")
        self.momentum = momentum
        self.schedule = schedule
        self.module = nn.Sequential(*copy.deepcopy(online)).requires_grad_(False)

    @torch.no_grad()
    def forward(self, inputs: Any) -> Any:
        """What the modules make of the inputs, without gradients."""
        return self.module(inputs)

    def momentum_at(self, progress: float) -> float:
        """The momentum at a share of the training, 0 to 1."""
        if self.schedule == "constant":
            return self.momentum
        return self.momentum * (1 + math.cos(math.pi * progress)) / 2

    @torch.compiler.disable
    @torch.no_grad()
    def follow(self, *online: nn.Module, steps: StepCounter) -> None:
        """Moves the weights towards those of the online modules; once a step.

        Args:
            online: the modules, as given to the constructor.
            steps: of the model, which has begun the step at hand.
        """
        source = nn.Sequential(*online)
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(source.parameters())
        if steps.count <= 1:
            torch._foreach_copy_(ours, theirs)
        else:
            torch._foreach_lerp_(ours, theirs, self.momentum_at(steps.progress))
        if buffers := list(self.module.buffers()):
            torch._foreach_copy_(buffers, list(source.buffers()))
