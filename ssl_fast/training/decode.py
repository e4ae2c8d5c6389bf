"""Decodes image files with Pillow: whatever is in them becomes upright 8-bit RGB."""

from __future__ import annotations

import contextlib
import os
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow tries these and no others: a file called .jpg that is PostScript would start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
BACKGROUND = (255, 255, 255)  # behind transparent pixels: drawings with them are made for paper


class Unreadable(Exception):
    """A file that holds no image that can be decoded; the text is the reason, in one line."""


def decode(file: str | bytes | os.PathLike[str], at_least: int | None = None) -> Image.Image:
    """The image in a file, or the first frame of an animation.

    Turned as its orientation tag says. Deep gray is scaled to 8 bits (`_deep_gray`), transparent
    pixels lie on white, CMYK, YCbCr, gray and palettes are converted.

    Args:
        file: its path.
        at_least: the shorter side that is needed, in pixels. A larger JPEG is decoded at a half, a
            quarter or an eighth of its size, where that is still no smaller than this; it skips
            that share of the inverse cosine transform.

    Returns:
        The image, mode "RGB".

    Raises:
        Unreadable: for a file that is missing, empty, truncated, too large (Pillow's limit is 179
            million pixels) or no image.
    """
    # Broken files make Pillow's plugins raise anything: struct.error, SyntaxError, IndexError, ...
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open(file, "rb") as stream:
                if os.fstat(stream.fileno()).st_size == 0:
                    raise ValueError("the file is empty")
                with Image.open(stream, formats=FORMATS) as image:
                    if at_least is not None:
                        image.draft(None, (at_least, at_least))
                    image.load()
                    return _to_rgb(_upright(image))
    except Exception as error:
        raise Unreadable(_reason(error)) from None


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # a broken tag turns nothing; the pixels are good
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_deep_gray(image)).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, BACKGROUND)
        canvas.paste(colours, mask=colours.getchannel("A"))
        return canvas
    return image.convert("RGB")


def _deep_gray(image: Image.Image) -> np.ndarray:
    """[H, W] uint8 of a gray image with more than 8 bits (Pillow itself clips to white).

    16 bits are divided by 257. Integers of 32 bits and floats do not say what white is: it is the
    first of 1 (floats only), 255 and 65535 that no pixel exceeds, else the brightest pixel.
    """
    values = np.nan_to_num(np.asarray(image, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16"):
        white = 65535.0
    else:
        brightest = values.max(initial=0.0)
        whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        white = next((white for white in whites if brightest <= white), brightest)
    return np.rint(values.clip(0.0, white) * (255.0 / white)).astype(np.uint8)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image ({', '.join(FORMATS)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
