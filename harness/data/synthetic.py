"""Seeded images of any size and number of classes: one smooth random pattern a class, under noise."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from harness.config import DataConfig
from harness.data.memory import Images


def make_synthetic(config: DataConfig) -> tuple[Images, Images]:
    """`num_images` training images (N, 3, H, W) and a quarter as many held out, of `num_classes` classes."""
    assert config.num_classes is not None and config.num_images is not None and config.seed is not None
    generator = torch.Generator().manual_seed(config.seed)
    size = (config.image_size, config.image_size)
    coarse = torch.randn(config.num_classes, 3, 4, 4, generator=generator)
    patterns = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    parts = []
    for count in (config.num_images, max(1, config.num_images // 4)):
        labels = torch.randint(config.num_classes, (count,), generator=generator)
        images = torch.randn(count, 3, *size, generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):  # one by one: at 299x299 a copy counts
            image += patterns[label]
        parts.append(Images(images, labels))
    return parts[0], parts[1]
