"""scikit-learn's handwritten digits: 1,797 real scans of 8x8 pixels that ship inside the package."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from harness.config import DataConfig
from harness.data.memory import Images

HELD_OUT = 360
"""The last images by position; the scans seem grouped by writer, so a random split would leak."""


def load_digits(config: DataConfig) -> tuple[Images, Images]:
    """Training part (1437, 1, H, W), held-out part (360, 1, H, W), bilinearly enlarged, values 0-16."""
    pixels, labels = _read_scans()
    images = torch.from_numpy(pixels)[:, None]
    size = (config.image_size, config.image_size)
    images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    targets = torch.from_numpy(labels)
    return Images(images[:-HELD_OUT], targets[:-HELD_OUT]), Images(images[-HELD_OUT:], targets[-HELD_OUT:])


def _read_scans() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (1797, 8, 8) and labels (1797,), from the file inside scikit-learn.

    Importing scikit-learn for it would cost each worker a second and 150 MB.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the digits ship inside scikit-learn, which is not installed")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
