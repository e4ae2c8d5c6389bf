"""From the losses that a model returns to the one that is minimised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def parse_losses(losses: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise, and the values to log.

    Each value is the mean of a tensor, or the sum of the means of a list of tensors; the total is
    the sum of those whose key contains "loss". It is logged as "loss"; if it has other parts than
    the value that came under this key, that value is logged as "loss_main" (upstream logs it as if
    it were the total). Logged values have no graph.

    Raises:
        TypeError: for a value that is neither.
        ValueError: if no key contains "loss", or if "loss" would become "loss_main" and there is
            one.
    """
    if not isinstance(losses, Mapping):
        raise TypeError(f"loss() returned a {type(losses).__name__}; expected a dict")
    values = {name: _mean(name, value) for name, value in losses.items()}
    parts = [name for name in values if "loss" in name]
    if not parts:
        got = ", ".join(values) or "nothing"
        raise ValueError(f"no key of the losses contains 'loss'; they are {got}")
    total = torch.stack([values[name] for name in parts]).sum()
    if "loss" in values and len(parts) > 1:
        if "loss_main" in values:
            raise ValueError(
                "losses have both 'loss' and 'loss_main', the name that 'loss' gets in the log "
                "when there are other losses; rename one"
            )
        values = {("loss_main" if name == "loss" else name): v for name, v in values.items()}
    values = {"loss": total, **values}
    return total, {name: value.detach() for name, value in values.items()}


def _mean(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.mean()
    if isinstance(value, list) and value and all(isinstance(part, Tensor) for part in value):
        return torch.stack([part.mean() for part in value]).sum()
    raise TypeError(f"{name} is not a tensor or list of tensors")
