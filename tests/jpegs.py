"""A small folder of real JPEGs in ImageNet's layout, cut from the two photographs that scikit-learn ships."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SHAPES = ((120, 90), (90, 120), (100, 100))
"""Width and height of the cuttings, in turn."""


def write_jpegs(
    root: Path, *, train: int = 8, val: int = 4, classes: int = 3, shapes: Sequence[tuple[int, int]] = SHAPES
) -> Path:
    """Write root/train/CLASS and root/val/CLASS with so many JPEGs in each class folder; gives `root`."""
    photographs = load_sample_images().images
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for number in range(classes):
            folder = root / part / f"class_{number}"
            folder.mkdir(parents=True)
            for i in range(count):
                width, height = shapes[i % len(shapes)]
                photograph = photographs[(number + i) % len(photographs)]
                top, left = rng.integers(photograph.shape[0] - height), rng.integers(photograph.shape[1] - width)
                cutting = Image.fromarray(photograph[top : top + height, left : left + width])
                cutting.save(folder / f"{part}_{i:03}.jpg", quality=90)
    return root


def folder_data(root: Path, **fields: Any) -> dict[str, Any]:
    """The `data` section of a configuration for such a folder; three classes, small images, no worker processes."""
    own = {"name": "imagefolder", "root": str(root), "num_classes": 3, "image_size": 32, "batch_size": 6, "workers": 0}
    return own | fields
