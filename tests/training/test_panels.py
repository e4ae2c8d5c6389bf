"""Panels read back pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_fast.nn import HOGGenerator
from ssl_fast.training.panels import (
    hog_picture,
    masked_image,
    save_panel,
    tile_scale,
    view_columns,
)


def pictures(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 255, shape, generator=generator, dtype=torch.uint8)


def holds(panel, tile):
    """Row and column of tile [H, W, 3] in panel [H, W, 3], or None."""
    height, width = tile.shape[:2]
    inside = panel[: len(panel) - height + 1, : panel.shape[1] - width + 1]
    for row, column in np.argwhere((inside == tile[0, 0]).all(axis=2)):
        if (panel[row : row + height, column : column + width] == tile).all():
            return row, column
    return None


def read(path):
    image = Image.open(path)
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def test_rows_are_samples_and_columns_are_kinds(tmp_path):
    colour, gray = pictures(2, 140, 130, 3), pictures(2, 140, 130, seed=1)
    save_panel(tmp_path / "a.png", [("input", colour), ("target", gray.numpy())])
    panel = read(tmp_path / "a.png")
    places = {}
    for name, images in (("colour", colour), ("gray", gray[..., None].expand(-1, -1, -1, 3))):
        for i in range(2):
            places[name, i] = holds(panel, images[i].numpy())
            assert places[name, i] is not None
    for i in range(2):
        assert places["colour", i][0] == places["gray", i][0]
        assert places["colour", i][1] + 130 < places["gray", i][1]
    assert places["colour", 0][0] + 140 < places["colour", 1][0]
    title = panel[: places["colour", 0][0]]
    assert (title[:, :138].min(axis=2) < 100).sum() > 30  # ink over both columns
    assert (title[:, 138:].min(axis=2) < 100).sum() > 30
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(32, 32, 4), (28, 48, 5), (8, 8, 16), (128, 128, 1)]
)
def test_small_images_are_enlarged_without_smoothing(tmp_path, height, width, scale):
    assert tile_scale(height, width) == scale
    images = pictures(1, height, width, 3)
    save_panel(tmp_path / "a.png", [("input", images)])
    tile = images[0].repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    assert holds(read(tmp_path / "a.png"), tile.numpy()) is not None


def test_large_and_small_columns_stay_beside_each_other(tmp_path):
    large, small = pictures(2, 224, 224, 3), pictures(2, 128, 128, seed=1)
    save_panel(tmp_path / "a.png", [("large", large), ("small", small)])
    panel = read(tmp_path / "a.png")
    for i in range(2):
        place = holds(panel, large[i].numpy())
        other = holds(panel, small[i, ..., None].expand(-1, -1, 3).numpy())
        assert place[0] == other[0]
        assert place[1] + 224 < other[1]


def test_rows_limit_and_long_titles(tmp_path):
    images = pictures(5, 32, 32)
    save_panel(tmp_path / "all.png", [("a", images)])
    save_panel(tmp_path / "two.png", [("a", images)], rows=2)
    save_panel(tmp_path / "more.png", [("a", images)], rows=9)
    heights = [len(read(tmp_path / f"{name}.png")) for name in ("all", "two", "more")]
    assert heights[0] - heights[1] == 3 * 136
    assert heights[0] == heights[2]
    title = "a title that is wider than its tile"
    save_panel(tmp_path / "wide.png", [(title, images), (title, images)], rows=1)
    assert read(tmp_path / "wide.png").shape[1] > 2 * 200


def test_failure_leaves_the_old_panel(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_panel(path, [("a", pictures(1, 32, 32))])
    before = path.read_bytes()

    def fail(self, file, format):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_panel(path, [("a", pictures(2, 32, 32))])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("columns", "options", "error", "message"),
    [
        ([], {}, ValueError, "columns is empty"),
        ([("a", torch.zeros(1, 8, 8))], {}, TypeError, "'a' are float32"),
        ([("a", pictures(1, 3, 8, 8))], {}, ValueError, r"'a' have shape \(1, 3, 8, 8\)"),
        ([("a", pictures(0, 8, 8))], {}, ValueError, r"\[0\] images"),
        ([("a", pictures(1, 8, 8)), ("b", pictures(2, 8, 8))], {}, ValueError, r"\[1, 2\] images"),
        ([("a", pictures(1, 8, 8))], {"rows": 0}, ValueError, "rows is 0"),
    ],
)
def test_panel_errors(tmp_path, columns, options, error, message):
    with pytest.raises(error, match=message):
        save_panel(tmp_path / "a.png", columns, **options)
    assert list(tmp_path.iterdir()) == []


def test_masked_patches_are_gray_and_others_untouched():
    images = pictures(2, 3, 8, 12)
    before = images.clone()
    mask = torch.zeros(2, 2, 3, dtype=torch.bool)
    mask[0, 1, 2] = mask[1, 0, 0] = True
    masked = masked_image(images, mask)
    expected = before.clone()
    expected[0, :, 4:, 8:] = expected[1, :, :4, :4] = 127
    assert torch.equal(masked, expected)
    assert torch.equal(images, before)
    assert torch.equal(masked_image(images, mask.float()), expected)


@pytest.mark.parametrize(
    ("images", "mask", "error", "message"),
    [
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 2), TypeError, "torch.float32"),
        (pictures(1, 3, 8, 8), torch.zeros(1, 4), ValueError, r"mask \(1, 4\)"),
        (pictures(1, 3, 8, 8), torch.zeros(2, 2, 2), ValueError, r"mask \(2, 2, 2\)"),
        (pictures(1, 3, 8, 8), torch.zeros(1, 3, 2), ValueError, "3 x 2 patches"),
    ],
)
def test_mask_errors(images, mask, error, message):
    with pytest.raises(error, match=message):
        masked_image(images, mask)


def test_views_beside_their_image(tmp_path):
    images, first, second = (pictures(3, 3, 32, 32, seed=seed) for seed in range(3))
    small = [pictures(3, 3, 8, 8, seed=seed) for seed in range(3, 7)]
    columns = view_columns(images, [first, second, *small])
    assert [title for title, _ in columns] == [
        "input", "view 1", "view 2", "small view 1 (8 px)", "small view 2 (8 px)",
    ]  # fmt: skip
    save_panel(tmp_path / "a.png", columns)
    panel = read(tmp_path / "a.png")
    places = []
    for views, scale in ((images, 4), (first, 4), (second, 4), (small[0], 16), (small[1], 16)):
        tile = views[1].permute(1, 2, 0).repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        places.append(holds(panel, tile.numpy()))
    assert len({row for row, _ in places}) == 1
    assert sorted(column for _, column in places) == [column for _, column in places]
    assert [title for title, _ in view_columns(images, [first])] == ["input", "view 1"]


def test_hog_picture_is_the_generators():
    generator = HOGGenerator(9, 4, 0, patch_size=8)
    images = pictures(3, 3, 24, 40)  # 3 x 5 patches of 2 x 2 cells
    tokens = generator(images)
    drawn = hog_picture(tokens, generator)
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (3, 24, 40)
    for i in range(3):
        alone = generator.generate_hog_image(generator.out[i : i + 1])
        assert np.array_equal(drawn[i].numpy(), alone)
    generator(pictures(1, 3, 8, 8))
    assert torch.equal(hog_picture(tokens, generator, size=images.shape[-2:]), drawn)
    assert (generator.h, generator.w) == (8, 8)


def test_hog_picture_shows_the_edge_where_it_is():
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    images[..., 18:] = 255  # one upright edge, in the fifth column of cells
    generator = HOGGenerator(9, 4, 0, patch_size=8)
    drawn = hog_picture(generator(images), generator, scale=4)
    assert drawn.shape == (1, 128, 128)
    assert not drawn[:, :, :64].any()
    assert not drawn[:, :, 80:].any()
    cell = drawn[0, 64:80, 64:80]
    assert cell.any(dim=1).sum() >= 14  # the line is upright: as tall as the cell
    assert cell.any(dim=0).sum() <= 5  # and narrow


def test_predictions_may_be_negative_or_nan():
    generator = HOGGenerator(9, 8, 0, patch_size=8)
    tokens = -torch.ones(1, 4, 27)
    tokens[0, 0] = torch.nan
    assert not hog_picture(tokens, generator, size=(16, 16)).any()
    assert hog_picture(tokens[:0], generator, size=(16, 16)).shape == (0, 16, 16)


def test_hog_picture_errors():
    generator = HOGGenerator(9, 8, 0, patch_size=8)
    with pytest.raises(ValueError, match="has not seen images"):
        hog_picture(torch.zeros(1, 4, 27), generator)
    with pytest.raises(ValueError, match=r"expected \[N, 4, 27\] for images of 16 x 16"):
        hog_picture(torch.zeros(1, 5, 27), generator, size=(16, 16))
