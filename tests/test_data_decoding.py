"""Image files of every kind: the right pixels, or a refusal that says what the file is."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.data.decoding import read_rgb

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
OPAQUE = np.full((5, 7), 255, np.uint8)
RGB, LUMA = Image.fromarray(COLOUR), Image.fromarray(GREY)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, form, **options)  # a copy: saving leaves settings in the image
    return buffer.getvalue()


def grey_alpha(alpha: np.ndarray) -> Image.Image:
    return Image.merge("LA", [LUMA, Image.fromarray(alpha)])


def png(colour: int, samples: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    """A 16-bit PNG of samples (H, W, channels): Pillow writes grey only. `colour`: 0 grey, 2 RGB, 4 and 6 with alpha."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    trns = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + trns + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pixels(content: bytes, path: Path) -> np.ndarray:
    path.write_bytes(content)
    image = read_rgb(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def stacked(*channels: np.ndarray) -> np.ndarray:
    return np.stack(channels, axis=-1)


GREY3 = stacked(GREY, GREY, GREY)
DEEP3 = stacked(*[RNG.integers(0, 65536, (5, 7), dtype=np.uint16) for _ in range(3)])
PALETTE = RGB.quantize(8)
PALETTE_RGB = np.asarray(PALETTE.convert("RGB"))
FULL = np.full((5, 7), 65535, np.uint16)


@pytest.mark.parametrize("name", ["image.jpg", "image.png"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [pytest.param(encoded(RGB, form), COLOUR, id=f"RGB {form}") for form in ("PNG", "BMP", "TIFF", "PPM")]
    + [
        pytest.param(encoded(RGB, "WEBP", lossless=True), COLOUR, id="RGB WEBP"),
        pytest.param(encoded(LUMA, "PNG"), GREY3, id="L PNG"),
        pytest.param(encoded(LUMA, "GIF"), GREY3, id="L GIF"),
        pytest.param(encoded(LUMA, "TIFF", tiffinfo={262: 0}), GREY3, id="L TIFF whose zero is white"),
        pytest.param(encoded(LUMA.point(lambda v: v // 16 * 17), "PNG", bits=4), GREY3 // 16 * 17, id="4-bit grey PNG"),
        pytest.param(encoded(LUMA.point(lambda v: 255 * (v > 99), "1"), "PNG"), 255 * (GREY3 > 99), id="1 PNG"),
        pytest.param(encoded(LUMA.point(lambda v: 255 * (v > 99), "1"), "TIFF"), 255 * (GREY3 > 99), id="1 TIFF"),
        pytest.param(encoded(PALETTE, "PNG"), PALETTE_RGB, id="P PNG"),
        pytest.param(encoded(PALETTE, "PNG", bits=4), PALETTE_RGB, id="4-bit P PNG"),
        pytest.param(encoded(PALETTE, "GIF"), PALETTE_RGB, id="P GIF"),
        pytest.param(encoded(PALETTE, "PNG", transparency=200), PALETTE_RGB, id="P PNG, its transparent colour unused"),
        pytest.param(encoded(PALETTE, "PNG", transparency=b"\xff" * 8), PALETTE_RGB, id="P PNG with an opaque palette"),
        pytest.param(encoded(grey_alpha(OPAQUE), "PNG"), GREY3, id="opaque LA PNG"),
        pytest.param(encoded(Image.fromarray(np.dstack([COLOUR, OPAQUE])), "PNG"), COLOUR, id="opaque RGBA PNG"),
        pytest.param(
            encoded(Image.fromarray(np.dstack([COLOUR, OPAQUE])), "WEBP", lossless=True), COLOUR, id="opaque RGBA WEBP"
        ),
        pytest.param(encoded(RGB, "PNG", transparency=(1, 2, 3)), COLOUR, id="RGB PNG, its transparent colour unused"),
        pytest.param(encoded(Image.fromarray(DEEP), "PNG"), stacked(*[DEEP >> 8] * 3), id="16-bit grey PNG"),
        pytest.param(encoded(Image.fromarray(DEEP), "TIFF"), stacked(*[DEEP >> 8] * 3), id="16-bit grey TIFF"),
        pytest.param(b"P5\n7 5\n65535\n" + DEEP.astype(">u2").tobytes(), stacked(*[DEEP >> 8] * 3), id="16-bit PGM"),
        pytest.param(png(2, DEEP3), DEEP3 >> 8, id="16-bit RGB PNG"),
        pytest.param(png(4, stacked(DEEP, FULL)), stacked(*[DEEP >> 8] * 3), id="opaque 16-bit LA PNG"),
        pytest.param(png(6, np.dstack([DEEP3, FULL])), DEEP3 >> 8, id="opaque 16-bit RGBA PNG"),
    ],
)
def test_the_pixels_are_right_whatever_the_kind_and_the_name(
    tmp_path: Path, name: str, content: bytes, expected: np.ndarray
) -> None:
    assert np.array_equal(pixels(content, tmp_path / name), expected)


def test_sixteen_bits_of_grey_are_those_of_colour(tmp_path: Path) -> None:
    grey = pixels(png(0, DEEP[..., None]), tmp_path / "a.png")
    assert np.array_equal(grey, pixels(png(2, stacked(DEEP, DEEP, DEEP)), tmp_path / "b.png"))
    assert 90 < grey.mean() < 165  # not all white


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_is_ink_on_white(tmp_path: Path, form: str) -> None:
    ink = np.dstack([COLOUR, GREY])
    ink = ink.repeat(8, 0).repeat(8, 1)  # JPEG's blocks
    found = pixels(
        encoded(
            Image.merge("CMYK", [Image.fromarray(channel) for channel in np.moveaxis(ink, 2, 0)]),
            form,
            **({"quality": 100} if form == "JPEG" else {}),
        ),
        tmp_path / "a.jpg",
    )
    c, k = ink[..., :3] / 255.0, ink[..., 3:] / 255.0
    assert np.abs(found - 255 * (1 - c) * (1 - k)).max() <= (5 if form == "JPEG" else 1)


def test_ycbcr_is_converted(tmp_path: Path) -> None:
    smooth = Image.fromarray(COLOUR).resize((40, 40), Image.Resampling.BICUBIC)
    found = pixels(encoded(smooth.convert("YCbCr"), "TIFF"), tmp_path / "a.jpg")
    assert np.abs(found.astype(int) - np.asarray(smooth)).max() <= 3


def test_a_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    content = encoded(RGB, "JPEG", quality=90)
    assert np.array_equal(pixels(content, tmp_path / "a.jpg"), np.asarray(Image.open(io.BytesIO(content))))


def test_of_a_jpeg_with_previews_the_first_picture_counts(tmp_path: Path) -> None:
    content = encoded(RGB, "MPO", save_all=True, append_images=[LUMA.convert("RGB")], quality=90)
    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert np.array_equal(pixels(content, tmp_path / "a.jpg"), np.asarray(Image.open(io.BytesIO(content))))


# How the camera was held (EXIF's tag 274): where the picture's first row and first column lie.

STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_a_picture_is_turned_upright(tmp_path: Path, orientation: int, form: str) -> None:
    upright = COLOUR.repeat(16, 0).repeat(16, 1)  # JPEG's blocks
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    found = pixels(encoded(stored, form, exif=exif, **lossless.get(form, {})), tmp_path / "a.jpg")
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() <= (4 if form == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_exif_does_not_define_is_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels(encoded(RGB, "PNG", exif=exif), tmp_path / "a.png"), COLOUR)


def test_exif_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert np.array_equal(pixels(encoded(RGB, "PNG", exif=b"Exif\0\0nonsense"), tmp_path / "a.png"), COLOUR)


# What is no one right picture.

HALF = np.where(np.arange(35).reshape(5, 7) % 2, 255, 128).astype(np.uint8)
PNG_RGB = encoded(RGB, "PNG")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (encoded(Image.fromarray(np.dstack([COLOUR, HALF])), "PNG"), "18 of 35 pixels are transparent"),
        (encoded(Image.fromarray(np.dstack([COLOUR, HALF])), "WEBP", lossless=True), "18 of 35 pixels are transparent"),
        (encoded(Image.fromarray(np.dstack([COLOUR, HALF])), "TIFF"), "18 of 35 pixels are transparent"),
        (encoded(grey_alpha(HALF), "PNG"), "18 of 35 pixels are transparent"),
        (encoded(PALETTE, "PNG", transparency=int(np.asarray(PALETTE)[0, 0])), r"\d+ of 35 pixels are transparent"),
        (encoded(PALETTE, "PNG", transparency=b"\x80" * 8), "35 of 35 pixels are transparent"),
        (encoded(PALETTE, "GIF", transparency=int(np.asarray(PALETTE)[0, 0])), r"\d+ of 35 pixels are transparent"),
        (encoded(LUMA, "PNG", transparency=int(GREY[0, 0])), r"\d of 35 pixels are transparent"),
        (encoded(RGB, "PNG", transparency=tuple(map(int, COLOUR[0, 0]))), "1 of 35 pixels are transparent"),
        (png(0, DEEP[..., None], (int(DEEP[0, 0]),)), "1 of 35 pixels are transparent"),
        (png(2, DEEP3, tuple(map(int, DEEP3[0, 0]))), "a 16-bit PNG with a transparent colour"),
        (png(4, stacked(DEEP, FULL // 2)), "35 of 35 pixels are transparent"),
        (encoded(Image.fromarray(DEEP.astype(np.int32)), "TIFF"), "a TIFF of 32-bit whole numbers, whose black"),
        (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "a TIFF of 32-bit fractions, whose black"),
        (encoded(Image.fromarray(DEEP), "TIFF", tiffinfo={262: 0}), "a 16-bit grey TIFF whose zero is white"),
        (encoded(Image.new("LAB", (7, 5)), "TIFF"), "a TIFF of mode LAB"),
        (encoded(RGB, "GIF", save_all=True, append_images=[LUMA]), "a GIF of 2 frames"),
        (encoded(RGB, "WEBP", save_all=True, append_images=[LUMA]), "a WEBP of 2 frames"),
        (encoded(RGB, "PNG", save_all=True, append_images=[LUMA]), "a PNG of 2 frames"),
        (encoded(RGB, "TIFF", save_all=True, append_images=[LUMA]), "a TIFF of 2 frames"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 5\n", "a text, which begins '%!PS-Adobe"),
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!doctype html><html>", "an HTML page"),
        (PNG_RGB[:20], "damaged|Truncated"),
        (PNG_RGB[:60], "truncated"),
    ],
)
def test_what_is_no_one_right_picture_is_refused_by_what_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises((ValueError, OSError, SyntaxError), match=says):
        read_rgb(tmp_path / "image.png")
