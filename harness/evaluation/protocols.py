"""The evaluation protocols as geometry: which views of an image are averaged.

All of them are rectangles of the original image, each resampled once to the network's input size, whatever that is. The
papers instead resize the image first, and give their sizes for an input of 224; a crop of 224 from an image resized to
256 is a square whose side is 224/256 of the original's, and that is what is taken here. That the papers on larger
inputs (299) kept these proportions is our reading; none says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, get_args

from harness.data.views import Layout, View, central, square

Protocol = Literal["single", "ten_crop", "twelve_crop", "multi_crop_144", "dense"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

CROP = 224
"""The input size for which the papers give the sizes below."""
RESIZED = (256, 288, 320, 352)
"""The image's shorter side before the crops of CROP are cut (GoogLeNet, arXiv:1409.4842, section 7)."""
DENSE = (224, 256, 384, 480, 640)
"""The image's shorter side in dense evaluation (He et al., arXiv:1512.03385, section 3.4)."""


def views(protocol: Protocol, size: int, eval_crop: float = 0.875) -> Layout:
    """The views of an image, from its width and height, for a network with inputs of size x size.

    `single`: the central square, `eval_crop` of the shorter side wide. `ten_crop` (Krizhevsky et al. 2012): the four
    corners and the centre of the central square, and their mirror images. `twelve_crop`: the same and the central
    square whole; the paper's tables name twelve crops and do not say which, so this is our guess: GoogLeNet's six crops
    of one square at one scale, mirrored. `multi_crop_144` (GoogLeNet): those twelve of three squares (left, centre,
    right; or top, centre, bottom) at four scales. `dense` (He et al.): the whole image, unsquared, at five scales and
    mirrored, the network applied to all of it at once; the paper has it for ResNet only.
    """
    if protocol == "single":
        return partial(_single, size=size, fraction=eval_crop)
    return partial(_LAYOUTS[protocol], size=size)


def _single(width: int, height: int, *, size: int, fraction: float) -> list[View]:
    return [central(width, height, size, fraction)]


def _ten_crop(width: int, height: int, *, size: int) -> list[View]:
    left, top, side = _squares(width, height)[1]
    return _with_mirrors(_corners_and_centre(left, top, side, RESIZED[0], size))


def _twelve_crop(width: int, height: int, *, size: int) -> list[View]:
    return _with_mirrors(_six(*_squares(width, height)[1], RESIZED[0], size))


def _multi_crop_144(width: int, height: int, *, size: int) -> list[View]:
    squares = _squares(width, height)
    return _with_mirrors(view for resized in RESIZED for one in squares for view in _six(*one, resized, size))


def _dense(width: int, height: int, *, size: int) -> list[View]:
    scales = [resized / CROP * size / min(width, height) for resized in DENSE]
    return _with_mirrors(View(0, 0, width, height, round(width * scale), round(height * scale)) for scale in scales)


_LAYOUTS = {"ten_crop": _ten_crop, "twelve_crop": _twelve_crop, "multi_crop_144": _multi_crop_144, "dense": _dense}


def _squares(width: int, height: int) -> list[tuple[float, float, float]]:
    """The left, central and right square of an image (top, central, bottom of an upright one): left, top, side."""
    side = min(width, height)
    return [((width - side) * share, (height - side) * share, side) for share in (0.0, 0.5, 1.0)]


def _corners_and_centre(left: float, top: float, side: float, resized: int, size: int) -> list[View]:
    """Upper left, upper right, lower left, lower right and central crop of a square."""
    crop = side * CROP / resized
    rest = side - crop
    places = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5))
    return [square(left + rest * x, top + rest * y, crop, size) for x, y in places]


def _six(left: float, top: float, side: float, resized: int, size: int) -> list[View]:
    """Those five, and the whole square."""
    return [*_corners_and_centre(left, top, side, resized, size), square(left, top, side, size)]


def _with_mirrors(upright: Iterator[View] | Sequence[View]) -> list[View]:
    return [view for one in upright for view in (one, one.mirror())]
