"""scikit-learn's handwritten digits: 1,797 real scans of 8x8 pixels that ship inside the package."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from harness.config import DataConfig
from harness.data.dataset import Images

HELD_OUT = 360
"""The last images by position; the scans seem grouped by writer, so a random split would leak."""


def load_digits(config: DataConfig) -> tuple[Images, Images, int]:
    """Training part (1437, 1, H, W), held-out part (360, 1, H, W), and 10 classes; bilinearly enlarged, values 0-16."""
    from sklearn.datasets import load_digits as bundled

    digits = bundled()
    images = torch.from_numpy(digits.images.astype(np.float32))[:, None]
    size = (config.image_size, config.image_size)
    images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return Images(images[:-HELD_OUT], labels[:-HELD_OUT]), Images(images[-HELD_OUT:], labels[-HELD_OUT:]), 10
