"""The results of data loading: a row for each maker of masks, work and number of workers."""

from __future__ import annotations

from dataclasses import dataclass

from ..report import OK, WithStatus

TITLE = "Data loading"
KEY = ("law", "work", "workers", "batch", "provider")
# Attributes and what the table calls them.
COLUMNS = {
    "law": "masks",
    "work": "work",
    "workers": "workers",
    "provider": "provider",
    "kind": "status",
    "images_per_s": "images/s",
    "p20_per_s": "p20",
    "p80_per_s": "p80",
    "us_per_image": "us an image",
}


@dataclass
class LoaderRow(WithStatus):
    """One maker of masks. Numbers are None unless the status is "ok".

    Attributes:
        law: of the masks; "no masks" for pictures alone.
        work: what a worker does beside masks.
        workers: processes; 0 for the main process.
        batch: images in a batch.
        provider: who makes the masks.
        status: "ok", "skipped: <reason>" or "failed: <what>".
        images_per_s, p20_per_s, p80_per_s: of an epoch; epochs are those of all providers in turns.
        us_per_image: from the median.
        epochs, images: how many, and how many images in each.
    """

    law: str
    work: str
    workers: int
    batch: int
    provider: str
    status: str = OK
    images_per_s: float | None = None
    p20_per_s: float | None = None
    p80_per_s: float | None = None
    us_per_image: float | None = None
    epochs: int | None = None
    images: int | None = None
    busy: float | None = None
    machine: str = ""
    versions: str = ""
    commit: str = ""
    date: str = ""
