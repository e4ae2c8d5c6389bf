"""The results of whole steps, a row for each provider of a method."""

from __future__ import annotations

from dataclasses import dataclass

from ..report import OK, WithStatus

TITLE = "Whole training steps"
KEY = ("method", "size", "batch", "precision", "provider", "device")
# Attributes and what the table calls them.
COLUMNS = {
    "method": "method",
    "size": "size",
    "batch": "batch",
    "precision": "precision",
    "provider": "provider",
    "kind": "status",
    "median_ms": "ms a step",
    "p20_ms": "p20",
    "p80_ms": "p80",
    "images_per_s": "images/s",
    "peak_mb": "peak MB",
    "hot_ms": "hot paths ms",
    "hot_share": "of the step",
    "note": "note",
}


@dataclass
class StepRow(WithStatus):
    """One provider of one method. Numbers are None unless the status is "ok".

    Attributes:
        method, size, batch, precision, provider, device: what ran; a batch of a method with views
            has two images of each.
        status: "ok", "skipped: <reason>" or "failed: <what>".
        median_ms, p20_ms, p80_ms: of a step: forward, backward, optimiser.
        samples: steps behind these.
        images_per_s: from the median.
        hot_share: share of a step in the hot paths and their gradients, from profiled steps. Those
            of ours and of the references are all functions of `ssl_fast.ops`; those of others what
            ours do in their place.
        hot_ms: that share of the median.
        peak_mb: peak of torch's allocator in a step, beyond weights and the optimiser's
            state.
        loss, grad_norm: of the first step, compared with those of the references.
        note: what is not in the step, or is done otherwise.
    """

    method: str
    size: str
    batch: int
    precision: str
    provider: str
    device: str
    status: str = OK
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    samples: int | None = None
    images_per_s: float | None = None
    hot_ms: float | None = None
    hot_share: float | None = None
    peak_mb: float | None = None
    loss: float | None = None
    grad_norm: float | None = None
    note: str = ""
    threads: int | None = None
    busy: float | None = None
    machine: str = ""
    versions: str = ""
    commit: str = ""
    date: str = ""
