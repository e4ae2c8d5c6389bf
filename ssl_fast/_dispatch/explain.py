"""Says who serves an op, and why not another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from . import backends
from .library import OPS


@dataclass(frozen=True)
class Explanation:
    """Who serves an op on a device type.

    Attributes:
        owner: the backend that a call reaches now.
        forced: whether `ssl_fast.backend` or SSL_FAST_BACKEND chose it.
        reasons: for each backend why it cannot serve here, or "" if it could.
    """

    op: str
    device: str
    owner: str
    forced: bool
    reasons: dict[str, str]

    def __str__(self) -> str:
        how = "forced" if self.forced else "preferred"
        lines = [f"{self.op} on {self.device}: {self.owner} ({how})"]
        for name, why_not in self.reasons.items():
            lines.append(f"  {name:<10} {why_not or 'can serve'}")
        return "\n".join(lines)


def explain(op: str, *args: Any, device: str | None = None) -> Explanation:
    """Explains which backend serves `op`.

    Args:
        op: its name, such as "hog".
        args: the arguments of a call, if at hand: the first tensor's device is the one meant.
        device: "cpu" or "cuda", where there are no arguments; the CPU if nothing is said.

    Raises:
        ValueError: for an op or device that is not known.
    """
    if op not in OPS:
        raise ValueError(f"op is {op!r}; known are {', '.join(map(repr, OPS))}")
    if device is None:
        tensors = (arg for arg in args if isinstance(arg, torch.Tensor))
        device = next((tensor.device.type for tensor in tensors), "cpu")
    if device not in backends.DEVICES:
        known = ", ".join(map(repr, backends.DEVICES))
        raise ValueError(f"device is {device!r}; the backends differ on {known}")
    found = OPS[op]
    return Explanation(
        op=op,
        device=device,
        owner=backends.owner(found, device),
        forced=backends._forced is not None,
        reasons={name: backends.reason(found, name, device) for name in backends.BACKENDS},
    )
