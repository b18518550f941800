"""What every dataset gives, and the order in which it is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.config import DataConfig

PROBE_SET = 256
"""Images in the fixed probe set."""


@dataclass(frozen=True)
class Images:
    """Images (N, 3, H, W), float32, channels last, and their labels (N,), on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


@dataclass(frozen=True)
class Dataset:
    """A training part, a held-out part that is the same for every seed, and the number of classes."""

    train: Images
    held_out: Images
    num_classes: int

    def probe_set(self) -> Tensor:
        """The fixed probe set (256, 3, H, W): training images evenly spaced by position, whatever the seed."""
        count = min(PROBE_SET, len(self.train))
        positions = torch.arange(count, device=self.train.labels.device) * len(self.train) // count
        return self.train.images[positions]


class BatchOrder:
    """Which images a step trains on: a pure function of seed and step, so that a run continues in mid-epoch.

    Each epoch is a fresh permutation; its incomplete last batch is left out.
    """

    def __init__(self, length: int, batch_size: int, seed: int, device: torch.device) -> None:
        self.length, self.batch_size, self.seed, self.device = length, batch_size, seed, device
        self.steps_per_epoch = length // batch_size
        self._epoch = -1
        self._order = torch.empty(0)

    def __getitem__(self, step: int) -> Tensor:
        """Positions (B,) of the images of step `step`, on the device."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = torch.randperm(self.length, generator=generator).to(self.device)
            self._epoch = epoch
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]


def load_dataset(config: DataConfig, device: torch.device) -> Dataset:
    """The dataset that a configuration names, on the device."""
    from harness.data.digits import load_digits
    from harness.data.synthetic import make_synthetic

    train, held_out, num_classes = load_digits(config) if config.name == "digits" else make_synthetic(config)
    mean, std = train.images.mean(), train.images.std()

    def place(part: Images) -> Images:
        images = ((part.images - mean) / std).expand(-1, 3, -1, -1)
        return Images(images.to(device).contiguous(memory_format=torch.channels_last), part.labels.to(device))

    return Dataset(place(train), place(held_out), num_classes)


def count_classes(config: DataConfig) -> int:
    """Number of classes, without loading anything."""
    return config.num_classes or 10
