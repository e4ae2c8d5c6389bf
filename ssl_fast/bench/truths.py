"""What outputs are compared with: the reference in float64, formed once in a run.

The processes of a run, one for each allocator, check the same cases, and a truth may take longer
than what it is compared with.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from .case import Case, Inputs, tensors_of, truth_of


class Truths:
    """Truths of cases, kept in a folder for the processes that come later.

    Args:
        folder: of this run; None to keep nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def of(self, case: Case, number: int, inputs: Inputs) -> tuple[Tensor, ...]:
        """The truth for the inputs of a case's check of this number: inputs with the same sums."""
        if self.folder is None:
            return truth_of(case, inputs)
        sums = [tensor.sum(dtype=torch.float64).item() for tensor in tensors_of(inputs)]
        name = repr((case.op, case.name, case.dtype, number, sums))
        path = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()}.pt"
        if path.is_file():
            kept: list[Tensor] = torch.load(path, weights_only=True)
            return tuple(kept)
        truth = truth_of(case, inputs)
        torch.save([tensor.cpu().contiguous() for tensor in truth], path)
        return truth
