"""Views: which rectangle of an image a network sees, at which size. Pure geometry, for every dataset and protocol.

Edges are in pixels of the original image, counted from its top left corner; they need not be whole numbers, since an
image is resampled once, from the original to the view's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

AREA = (0.08, 1.0)
"""Share of the image's area that a random view covers (GoogLeNet, arXiv:1409.4842, section 6)."""
ASPECT = (3 / 4, 4 / 3)
"""Width over height of a random view (the same)."""
ATTEMPTS = 100
"""Rectangles tried before a random view is the whole image (TF-slim's number)."""


@dataclass(frozen=True)
class View:
    """The rectangle (left, top, right, bottom) of an image, brought to width x height pixels, mirrored or not."""

    left: float
    top: float
    right: float
    bottom: float
    width: int
    height: int
    mirrored: bool = False

    def upright(self) -> View:
        """The same without mirroring."""
        return replace(self, mirrored=False)

    def mirror(self) -> View:
        """The same, mirrored left to right once more."""
        return replace(self, mirrored=not self.mirrored)


Layout = Callable[[int, int], Sequence[View]]
"""The views of an image, from its width and height. Worker processes take it, so it must pickle."""


def square(left: float, top: float, side: float, size: int) -> View:
    """A square of an image, brought to size x size."""
    return View(left, top, left + side, top + side, size, size)


def whole(width: int, height: int) -> View:
    """The image as it is."""
    return View(0.0, 0.0, float(width), float(height), width, height)


def central(width: int, height: int, size: int, fraction: float) -> View:
    """The central square whose side is a fraction of the image's shorter side.

    TF-slim takes the fraction of either side and squeezes the rectangle into a square; this keeps the aspect ratio.
    """
    side = fraction * min(width, height)
    return square((width - side) / 2, (height - side) / 2, side, size)


def random_view(width: int, height: int, size: int, rng: np.random.Generator) -> View:
    """The Inception recipe's random crop: area uniform in AREA, aspect ratio in ASPECT, on whole pixels.

    Uniform in the logarithm of the aspect ratio. The whole image when no rectangle fits in ATTEMPTS attempts.
    """
    for _ in range(ATTEMPTS):
        area = rng.uniform(*AREA) * width * height
        aspect = float(np.exp(rng.uniform(np.log(ASPECT[0]), np.log(ASPECT[1]))))
        w, h = max(1, round((area * aspect) ** 0.5)), max(1, round((area / aspect) ** 0.5))
        if w <= width and h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return View(left, top, left + w, top + h, size, size)
    return View(0, 0, width, height, size, size)
