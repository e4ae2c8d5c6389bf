"""The rule by which a kernel's numbers are right.

Truth is the reference in float64. A kernel passes when its error against the truth is at most twice
that of the reference run in the kernel's own type, plus a floor per type, in the maximum and in the
root mean square. NaN must stand in the same places. (The rule of the flash-attention project.)
"""

from __future__ import annotations

import torch
from torch import Tensor

# Times the largest magnitude of the truth: a few units in the last place. For float64, where the
# truth is no wider, all that sums in another order may differ by.
FLOORS = {
    torch.float64: 1e-13,
    torch.float32: 2e-7,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}


def errors(result: Tensor, truth: Tensor) -> tuple[float, float]:
    """Maximum and root mean square of |result - truth|, NaN left out."""
    difference = (result.double() - truth.double()).abs()
    difference = difference[~difference.isnan()]
    if difference.numel() == 0:
        return 0.0, 0.0
    return difference.max().item(), difference.square().mean().sqrt().item()


def magnitude(truth: Tensor) -> float:
    """The largest absolute value, of what is finite."""
    finite = truth[truth.isfinite()]
    return finite.abs().max().item() if finite.numel() else 0.0


def assert_as_good(
    result: Tensor, reference: Tensor, truth: Tensor, what: str, scale: float | None = None
) -> None:
    """Fails unless `result` is as near the `truth` as the rule says.

    Args:
        result: of the kernel.
        reference: of the reference in the kernel's type.
        truth: of the reference in float64.
        what: begins the message.
        scale: what the floor is relative to; None for the truth's own magnitude.
    """
    assert result.shape == truth.shape, f"{what}: shape {result.shape}, expected {truth.shape}"
    assert result.dtype == reference.dtype, f"{what}: {result.dtype}, expected {reference.dtype}"
    result, reference, truth = result.cpu(), reference.cpu(), truth.cpu()
    misplaced = result.isnan() != truth.isnan()
    assert not misplaced.any(), f"{what}: {int(misplaced.sum())} NaN misplaced or missing"
    floor = FLOORS[result.dtype] * (magnitude(truth) if scale is None else scale)
    for name, got, allowed in zip(
        ("maximum", "rms"), errors(result, truth), errors(reference, truth), strict=True
    ):
        assert got <= 2 * allowed + floor, (
            f"{what}: {name} error {got:.3g}; the reference has {allowed:.3g}, floor {floor:.3g}"
        )
