"""Images that lie in the device's memory."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.order import BatchOrder
from harness.data.part import Batch
from harness.data.views import Layout, View, whole


@dataclass(frozen=True)
class Images:
    """Images that are normalised already: float32 (N, 3, H, W), channels-last, and their labels (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Batch:
        return self.images[index], self.labels[index]

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every image once, in order; the last batch may be smaller."""
        for start in range(0, len(self), batch_size):
            yield self[slice(start, start + batch_size)]

    def stream(self, order: BatchOrder, start_step: int, rows: slice) -> Generator[Batch]:
        """The rows that this process takes of each step's batch, from `start_step` on, without end."""
        for step in itertools.count(start_step):
            yield self[order[step][rows]]

    def views(self, layout: Layout) -> Iterator[tuple[list[Tensor], int]]:
        """For every image in order: its views, each (3, h, w), and its label."""
        labels = self.labels.tolist()
        for position, label in enumerate(labels):
            image = self[slice(position, position + 1)][0][0]
            yield sample(image, list(layout(image.shape[-1], image.shape[-2]))), label


@dataclass(frozen=True)
class Bytes(Images):
    """Images kept as uint8 (N, C, h, w), one channel or three; a batch is normalised and brought to a size when taken.

    mean, std: of each channel (C, 1, 1), on the scale of the bytes. size: height and width of what is taken.
    """

    mean: Tensor
    std: Tensor
    size: int

    def __getitem__(self, index: Tensor | slice) -> Batch:
        images = ((self.images[index].float() - self.mean) / self.std).expand(-1, 3, -1, -1)
        if self.size != images.shape[-1]:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        return images.contiguous(memory_format=torch.channels_last), self.labels[index]


def statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), as (C, 1, 1) float32. Exact."""
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for chunk in torch.split(images, 4096):
        for channel, pixels in enumerate(chunk.unbind(1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    share = counts / counts.sum(dim=1, keepdim=True)
    mean = (share * values).sum(dim=1)
    std = (share * (values - mean[:, None]) ** 2).sum(dim=1).sqrt()
    return mean.float()[:, None, None], std.float()[:, None, None]


def sample(image: Tensor, views: list[View]) -> list[Tensor]:
    """Views of an image (3, H, W) by bilinear interpolation, each (3, h, w); for views no coarser than the image."""
    height, width = image.shape[-2:]
    samples: dict[View, Tensor] = {}
    for size in dict.fromkeys((view.height, view.width) for view in views):
        group = list(dict.fromkeys(view for view in views if (view.height, view.width) == size))
        theta = torch.tensor([_affine(view, width, height) for view in group], device=image.device)
        grid = F.affine_grid(theta, [len(group), 3, *size], align_corners=False)
        source = image.expand(len(group), -1, -1, -1)
        sampled = F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False)
        samples |= dict(zip(group, sampled, strict=True))
    if (same := whole(width, height)) in samples:
        samples[same] = image  # exactly, free of rounding
    return [samples[view] for view in views]


def _affine(view: View, width: int, height: int) -> list[list[float]]:
    """From coordinates in the view to those in the image; either run from -1 at the first edge to 1 at the last."""
    x_scale, y_scale = (view.right - view.left) / width, (view.bottom - view.top) / height
    x_shift, y_shift = (view.left + view.right) / width - 1, (view.top + view.bottom) / height - 1
    return [[-x_scale if view.mirrored else x_scale, 0.0, x_shift], [0.0, y_scale, y_shift]]
