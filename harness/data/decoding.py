"""An image file as upright 8-bit RGB pixels, or a refusal that says what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from harness.signatures import describe

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Formats that are read, told by content."""
ORIENTATION = 0x0112
"""EXIF's tag of how the camera was held."""
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
"""TIFF's tag of what the values mean, and its value for inverted grey."""
UPRIGHT: Mapping[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image of each orientation upright; 1, none and what EXIF does not define are upright."""
OPAQUE = ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr")
"""Modes of 8 bits a channel without alpha: their pixels are transparent only where one colour stands for that."""
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa", "P")
"""Modes that have alpha, or may have it in their palette."""


def read_rgb(path: Path) -> Image.Image:
    """Read an image file: mode RGB, turned upright as its EXIF orientation says.

    Palettes, grey, CMYK and YCbCr are converted by Pillow, without colour profiles or gamma; of 16 bits a channel the
    upper eight are taken. Raises ValueError that says what the file is where it is not one right picture: several
    frames, transparent pixels (what lies behind them is not in the file), grey values whose range it does not say, or a
    kind that is not read. A damaged file raises whatever Pillow raises.
    """
    with _open(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # a JPEG with previews: its first picture is the one
            raise ValueError(f"a {image.format} of {frames} frames: save one of them as an image of its own")
        deep = image.mode == "RGB" and any("16" in str(tile[3]) for tile in image.tile)
        image.load()
        if deep and "transparency" in image.info:
            raise ValueError(f"a 16-bit {image.format} with a transparent colour: save it as 8-bit RGB")
        rgb = _rgb(image)
        turn = UPRIGHT.get(_orientation(image))
        return rgb if turn is None else rgb.transpose(turn)


def _open(path: Path) -> ImageFile.ImageFile:
    Image.init()
    try:
        return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        what = describe(path)
        known = ", ".join(FORMATS)
        raise ValueError(f"{what}, damaged" if what.endswith(" image") else f"{what} ({known} are read)") from None


def _rgb(image: Image.Image) -> Image.Image:
    """The pixels as RGB, if they are opaque and their range is known."""
    if image.mode in OPAQUE and "transparency" not in image.info:
        return image.convert("RGB")
    if image.mode in (*OPAQUE, *WITH_ALPHA):
        rgba = image.convert("RGBA")
        _refuse_transparent(np.asarray(rgba.getchannel("A")) < 255)
        return rgba.convert("RGB")
    # Pillow before 11.0 reads a 16-bit grey PNG as I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
            raise ValueError("a 16-bit grey TIFF whose zero is white: save it as 8-bit RGB")
        grey = np.asarray(image)
        _refuse_transparent(grey == image.info.get("transparency", -1))
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    kind = {"I": "32-bit whole numbers", "F": "32-bit fractions"}.get(image.mode, f"mode {image.mode}")
    raise ValueError(f"a {image.format} of {kind}, whose black and white are not known: save it as 8-bit RGB")


def _refuse_transparent(pixels: np.ndarray) -> None:
    count = int(np.count_nonzero(pixels))
    if count:
        why = f"{count} of {pixels.size} pixels are transparent, and what lies behind them is not in the file"
        raise ValueError(f"{why}: save it with a background")


def _orientation(image: Image.Image) -> object:
    """EXIF's orientation, 1 to 8 if it is right; None where there is none or EXIF cannot be read, as viewers do."""
    try:
        orientation: object = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF can fail in any way
        return None
    return orientation
