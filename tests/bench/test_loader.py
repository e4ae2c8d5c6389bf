"""The bench of data loading: masks are counted before they are timed, pictures are real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_fast.bench import command
from ssl_fast.bench.case import Skipped
from ssl_fast.bench.loader import data, measure
from ssl_fast.bench.loader.data import LAWS, OURS, Law, Maker
from ssl_fast.bench.loader.rows import LoaderRow

EXTENT = measure.Extent(batch=4, pictures=2, masks=2, epochs=1, workers=(0,))


def with_makers(law: Law, **makers: Maker) -> dict[str, Law]:
    return {"law": replace(law, makers=makers)}


def rows_of(laws: dict[str, Law], files: list[Path] | None = None) -> list[LoaderRow]:
    return [row for rows in measure.measure(files or [], EXTENT, laws) for row in rows]


@pytest.mark.parametrize("name", LAWS)
def test_ours(name: str, tmp_path: Path) -> None:
    files = data.write_pictures(tmp_path, 3)
    law = LAWS[name]
    rows = rows_of(with_makers(law, ours=law.makers[OURS]), files)
    assert [(row.work, row.provider) for row in rows] == [
        (measure.ALONE, "ours"),
        (measure.DECODING, "none"),
        (measure.DECODING, "ours"),
    ]
    for row in rows:
        assert row.status == "ok"
        assert 0 < row.p20_per_s <= row.images_per_s <= row.p80_per_s
        assert row.us_per_image == pytest.approx(1e6 / row.images_per_s)
        assert row.images == 8


def test_wrong_masks_get_no_number() -> None:
    def one_too_many(results: dict[str, object]) -> dict[str, object]:
        mask = np.zeros((14, 14), np.int64)
        mask.flat[:76] = 1
        return {**results, "mask": mask}

    law = LAWS["beit"]
    makers = {"wrong": Maker(lambda: (one_too_many, None)), "right": law.makers[OURS]}
    wrong, right = rows_of(with_makers(law, **makers))[:2]
    assert wrong.status.startswith("failed: Mismatch: masks count [76, 76")
    assert wrong.images_per_s is None
    assert right.status == "ok"


def test_missing_peer_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str) -> object:
        raise Skipped("no such module; to install: `pip install it`")

    monkeypatch.setattr(data, "peer", absent)
    rows = {row.provider: row for row in rows_of({"beit": LAWS["beit"]})}
    assert rows["mmpretrain"].status.endswith("to install: `pip install it`")
    assert rows[OURS].status == "ok"


def test_pictures_are_decoded_and_differ(tmp_path: Path) -> None:
    files = data.write_pictures(tmp_path, 2)
    crops = torch.stack([torch.from_numpy(data.decoded(file, 1)) for file in files])
    assert crops.shape == (2, 3, data.CROP, data.CROP)
    assert crops.float().std() > 20
    assert not torch.equal(crops[0], crops[1])
    again = data.decoded(files[0], 2)
    assert not np.array_equal(again, crops[0].numpy())  # another place


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["loader", "--small", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert output.count("| ssl_fast.host ") == 2 * 2 * len(
        LAWS
    )  # two kinds of work, 0 and 1 workers
    assert not list(tmp_path.iterdir())  # few images are no results
