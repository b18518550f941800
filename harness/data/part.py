"""What the parts of every dataset have in common, whether they lie in memory or are streamed from files."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Protocol

from torch import Tensor

from harness.data.order import BatchOrder
from harness.data.views import Layout

Batch = tuple[Tensor, Tensor]
"""Images (B, 3, H, W), float32, normalised, channels-last, and labels (B,), int64, on the device."""


class Part(Protocol):
    """The training or the held-out images, without augmentation but for the random view of a streamed training image.

    What is iterated over may hold worker processes: close it, or exhaust it.
    """

    @property
    def labels(self) -> Tensor:
        """Labels of all images (N,), int64, on the device."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor | slice) -> Batch:
        """The images at these positions."""

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every readable image once, in order; the last batch may be smaller."""

    def stream(self, order: BatchOrder, start_step: int, rows: slice) -> Generator[Batch]:
        """The rows that this process takes of each step's batch, from `start_step` on, without end."""

    def views(self, layout: Layout) -> Iterator[tuple[list[Tensor], int]]:
        """For every readable image in order: its views, each (3, h, w), normalised, on the device, and its label."""
