"""Whether a model still tells images apart: what is measured, and when it is said in words."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..models.measures import feature_std, rankme

# By the names in metrics.jsonl: below which value it is a collapse, and how that is said. Features
# that point in all directions spread by 1.
SIGNS = {
    "feature_std": (0.1, "the embeddings of a batch spread by {:.2g} (0 to 1)"),
    "backbone_std": (0.1, "the backbone's features spread by {:.2g} (0 to 1)"),
    "rankme": (2.0, "the backbone's features use {:.3g} dimensions (RankMe)"),
}
SAMPLES = 2048  # that a rank is measured on: no rank of interest is higher


def spread(features: Tensor) -> dict[str, float]:
    """Measures of features [N, D]: `backbone_std` and `rankme`; see `models.measures`.

    Of at most 2,048 samples from all over. A measure that there is not, as of features that are not
    finite, is left out.
    """
    places = np.unique(np.linspace(0, len(features) - 1, SAMPLES, dtype=np.int64))
    some = features[places]
    if not some.isfinite().all():
        return {}
    found = {"rankme": round(float(rankme(some)), 3)}
    if len(some) > 1:
        found["backbone_std"] = round(float(feature_std(some)), 5)
    return found


class CollapseWatch:
    """Says once when features collapse, and again if they do so after a recovery.

    Args:
        first_step: what comes before is not judged: first weights may map all images to nearly
            the same, and warming up takes them away from there.
    """

    def __init__(self, first_step: int) -> None:
        self._first_step = first_step
        self._collapsed: dict[str, bool] = {}

    def warning(self, record: dict[str, Any]) -> str | None:
        """What to say about a line of metrics.jsonl, if anything."""
        if record["step"] <= self._first_step:
            return None
        said = [
            text.format(record[name])
            for name, (least, text) in SIGNS.items()
            if self._falls(record, name, least)
        ]
        if not said:
            return None
        return (
            f"step {record['step']}: collapse: {', '.join(said)}: the model hardly tells images "
            f"apart. Likely causes: a learning rate that is too high, a batch that is too small, "
            f"views that have nothing in common, or that what keeps the method from it is off"
        )

    def _falls(self, record: dict[str, Any], name: str, least: float) -> bool:
        """Whether a measure is below its least value and was not so when last seen."""
        if name not in record:
            return False
        before, now = self._collapsed.get(name, False), record[name] < least
        self._collapsed[name] = now
        return now and not before
