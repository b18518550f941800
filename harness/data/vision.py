"""CIFAR-10, CIFAR-100 and Fashion-MNIST, read by torchvision from a local folder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.config import DataConfig
from harness.data.check import SOURCES, check_source, root_folder
from harness.data.memory import Bytes, statistics
from harness.located import InputError

SIZE = 32
"""Height and width to which smaller images (Fashion-MNIST's 28) are padded by black."""


def load_vision(config: DataConfig, device: torch.device) -> tuple[Bytes, Bytes]:
    """Training part and test part, which is held out, as bytes on the device.

    Raises InputError where torchvision or the files are missing, damaged, or cannot be downloaded.
    """
    check_source(config)
    from torchvision import datasets

    source, root = SOURCES[config.name], root_folder(config)
    read = getattr(datasets, source.name)
    try:
        parts = [read(root, train=train, download=bool(config.download)) for train in (True, False)]
    except Exception as error:  # torchvision's RuntimeError, and what the network and damaged files raise
        action = "downloaded to" if config.download else "read from"
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError([f"data.root: {config.name} cannot be {action} {root / source.folder}: {why}"]) from None
    train, test = (_planes(part.data) for part in parts)
    mean, std = (value.to(device) for value in statistics(train))

    def place(images: Tensor, labels: object) -> Bytes:
        on_device = images.to(device).contiguous(memory_format=torch.channels_last)
        return Bytes(on_device, torch.as_tensor(labels, dtype=torch.int64).to(device), mean, std, config.image_size)

    return place(train, parts[0].targets), place(test, parts[1].targets)


def _planes(pixels: object) -> Tensor:
    """Bytes (N, H, W) or (N, H, W, 3) -> (N, C, 32, 32)."""
    images = torch.as_tensor(pixels)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    pad = (SIZE - images.shape[-1]) // 2
    return F.pad(images, (pad, pad, pad, pad))
