"""Every kind of file becomes upright 8-bit RGB, or is refused with a reason."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_fast.training.decode import Unreadable, decode

# How a camera lays down an upright picture, for each orientation that its tag can name.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def picture(width: int = 40, height: int = 24) -> np.ndarray:
    """[H, W, 3] uint8, smooth, with no symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [x * 200 // width, y * 200 // height, (x + 2 * y) * 70 // (width + height)], axis=-1
    ).astype(np.uint8)


def decoded(file: Path, at_least: int | None = None) -> np.ndarray:
    image = decode(file, at_least)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("ending", "options", "off"),
    [
        ("jpg", {"quality": 95, "subsampling": 0}, 6),
        ("jpg", {"quality": 95, "subsampling": 0, "progressive": True}, 6),
        ("png", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("bmp", {}, 0),
        ("tiff", {}, 0),
        ("tif", {"compression": "tiff_lzw"}, 0),
    ],
)
def test_colour(tmp_path: Path, ending: str, options: dict[str, object], off: int) -> None:
    file = tmp_path / f"image.{ending}"
    Image.fromarray(picture()).save(file, **options)
    difference = decoded(file).astype(int) - picture()
    assert np.abs(difference).max() <= off


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "tif", "gif"])
def test_gray(tmp_path: Path, ending: str) -> None:
    gray = picture()[..., 0]
    Image.fromarray(gray).save(tmp_path / f"image.{ending}")
    found = decoded(tmp_path / f"image.{ending}").astype(int)
    assert np.abs(found - gray[..., None]).max() <= (4 if ending == "jpg" else 0)


def test_black_and_white(tmp_path: Path) -> None:
    bits = picture()[..., 0] > 90
    Image.fromarray(bits).save(tmp_path / "image.png")
    assert np.array_equal(decoded(tmp_path / "image.png"), bits[..., None].repeat(3, 2) * 255)


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    assert np.abs(decoded(tmp_path / "red.jpg").astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_gray_is_scaled_and_not_clipped(tmp_path: Path, ending: str) -> None:
    deep = np.array([[0, 257, 300], [32768, 65278, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / f"image.{ending}")
    expected = [[0, 1, 1], [128, 254, 255]]
    assert decoded(tmp_path / f"image.{ending}")[..., 1].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[-5, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0, 1 << 29, 1 << 30]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 20.0, 200.0]], np.float32), [0, 20, 200]),
        (np.array([[np.nan, 1e6, 2e6]], np.float32), [0, 128, 255]),
        (np.zeros((1, 3), np.float32), [0, 0, 0]),
    ],
)
def test_32_bit_gray(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    Image.fromarray(values).save(tmp_path / "image.tif")
    assert decoded(tmp_path / "image.tif")[0, :, 2].tolist() == expected


def test_16_bit_colour(tmp_path: Path) -> None:
    pixels = picture(5, 3)
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in pixels)

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 5, 3, 16, 2, 0, 0, 0)  # 16 bits, RGB
    file = tmp_path / "deep.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert np.array_equal(decoded(file), pixels)


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[9, 8, 7, 255], [9, 8, 7, 0], [0, 0, 0, 128]]], np.uint8)).save(
        tmp_path / "rgba.png"
    )
    Image.fromarray(np.array([[[50, 255], [50, 0]]], np.uint8), mode="LA").save(tmp_path / "la.png")
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    palette.save(tmp_path / "opaque.png")
    palette.save(tmp_path / "palette.png", transparency=1)
    palette.save(tmp_path / "palette.gif", transparency=1)
    assert decoded(tmp_path / "rgba.png")[0].tolist() == [[9, 8, 7], [255] * 3, [127] * 3]
    assert decoded(tmp_path / "la.png")[0].tolist() == [[50] * 3, [255] * 3]
    assert decoded(tmp_path / "opaque.png")[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    for name in ("palette.png", "palette.gif"):
        assert decoded(tmp_path / name)[0].tolist() == [[10, 20, 30], [255] * 3], name
    keyed = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    keyed.save(tmp_path / "key.png", transparency=(4, 5, 6))
    assert decoded(tmp_path / "key.png")[0].tolist() == [[1, 2, 3], [255] * 3]


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_first_frame_of_an_animation(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if ending == "webp" else {}
    file = tmp_path / f"image.{ending}"
    frames[0].save(file, save_all=True, append_images=frames[1:], **options)
    assert (decoded(file) == (255, 0, 0)).all()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_orientation(tmp_path: Path, ending: str, orientation: int) -> None:
    image = Image.fromarray(picture())
    if STORED[orientation] is not None:
        image = image.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if ending == "webp" else {}
    image.save(tmp_path / f"image.{ending}", exif=exif, **options)
    assert np.array_equal(decoded(tmp_path / f"image.{ending}"), picture())


def test_orientation_of_a_jpeg_decoded_small(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its left side
    upright = Image.fromarray(picture(480, 640))
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "image.jpg", exif=exif, quality=95)
    found = decoded(tmp_path / "image.jpg", at_least=100)
    assert found.shape == (160, 120, 3)
    expected = np.asarray(upright.reduce(4)).astype(int)
    assert np.abs(found - expected).max() <= 8


def test_a_broken_orientation_tag_is_no_reason_to_lose_an_image(tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"
    Image.fromarray(picture()).save(tmp_path / "image.jpg", exif=exif)
    assert decoded(tmp_path / "image.jpg").shape == picture().shape


@pytest.mark.parametrize(
    ("at_least", "size"),
    [(None, (640, 480)), (241, (640, 480)), (240, (320, 240)), (60, (80, 60)), (1, (80, 60))],
)
def test_large_jpegs_come_no_smaller_than_asked(
    tmp_path: Path, at_least: int | None, size: tuple[int, int]
) -> None:
    Image.fromarray(picture(640, 480)).save(tmp_path / "image.jpg")
    assert decode(tmp_path / "image.jpg", at_least).size == size


def test_unreadable(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for ending in ("jpg", "png", "webp", "bmp", "tif", "gif"):
        whole = tmp_path / f"whole.{ending}"
        Image.fromarray(noise).save(whole)
        (tmp_path / f"cut.{ending}").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        (tmp_path / f"start.{ending}").write_bytes(whole.read_bytes()[:20])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image at all")
    (tmp_path / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    reasons = {"missing.jpg": "No such file or directory", "empty.jpg": "the file is empty"}
    reasons |= {"text.jpg": "not an image (JPEG", "script.jpg": "not an image (JPEG"}
    bad = [file.name for file in tmp_path.iterdir() if not file.name.startswith("whole")]
    assert len(bad) == 15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in [*bad, "missing.jpg"]:
            with pytest.raises(Unreadable) as caught:
                decode(tmp_path / name)
            reason = str(caught.value)
            assert reasons.get(name, "") in reason, name
            assert reason, name
            assert "\n" not in reason, name
            assert str(tmp_path) not in reason, name
    assert capfd.readouterr() == ("", "")


def test_huge_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over Pillow's limit it warns, over twice the limit it refuses."""
    Image.fromarray(picture(40, 24)).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoded(tmp_path / "image.png").shape == (24, 40, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(Unreadable, match="decompression bomb"):
        decode(tmp_path / "image.png")
