"""Error rates of a network, or of several whose probabilities are averaged, on the held-out part of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.data.part import Part
from harness.data.views import Layout
from harness.probes.passes import undisturbed

BATCH_SIZE = 64
"""Views that pass a network at once, unless told otherwise."""


@dataclass(frozen=True)
class Errors:
    """How many of so many images were misclassified: the label is not the first, or not among the first five."""

    images: int
    top1: int
    top5: int

    def rate(self, count: int) -> tuple[float, float, float]:
        """Share of images with its 95 % Wilson interval: share, low, high. NaN without images."""
        from scipy.stats import binomtest

        if self.images == 0:
            return (float("nan"),) * 3
        interval = binomtest(count, self.images).proportion_ci(0.95, method="wilson")
        return count / self.images, float(interval.low), float(interval.high)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with the rates."""
        names = ("error", "low", "high")
        rates = {"top1": self.rate(self.top1), "top5": self.rate(self.top5)}
        return asdict(self) | {
            f"{which}_{name}": value for which, rate in rates.items() for name, value in zip(names, rate, strict=True)
        }


def evaluate(
    models: Sequence[nn.Module],
    part: Part,
    layout: Layout,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] = lambda done: None,
) -> Errors:
    """Classify every image by the mean of the softmax over its views and the models, in eval-mode batch-norm.

    At most `batch_size` views pass a model at once, and no more than those and one image's are held: memory does not
    grow with the number of images. `progress` is told now and then how many images are done. The models are left as
    they were. With fewer than five classes, top-5 asks for all of them.
    """
    hits = torch.zeros(2, dtype=torch.int64, device=part.labels.device)
    done = pending = 0
    images: list[list[Tensor]] = []
    labels: list[int] = []

    def classify() -> None:
        nonlocal hits, done, pending
        if labels:
            probabilities = mean_probabilities(models, images, batch_size)
            ranked = probabilities.topk(min(5, probabilities.shape[1]), dim=1).indices
            found = ranked == torch.tensor(labels, device=ranked.device)[:, None]
            hits += torch.stack([found[:, 0].sum(), found.any(dim=1).sum()])
            done += len(labels)
            progress(done)
        images.clear()
        labels.clear()
        pending = 0

    with ExitStack() as stack:
        for model in models:
            stack.enter_context(undisturbed(model, training=False))
        for of_image, label in part.views(layout):
            images.append(of_image)
            labels.append(label)
            pending += len(of_image)
            if pending >= batch_size:
                classify()
        classify()
    top1, top5 = hits.tolist()
    return Errors(done, done - top1, done - top5)


def mean_probabilities(models: Sequence[nn.Module], images: Sequence[Sequence[Tensor]], batch_size: int) -> Tensor:
    """Mean softmax (N, classes) over the views (3, h, w) of each of N images and over the models.

    Views of equal size pass a model together: `batch_size` of the smallest, of larger ones as many fewer.
    """
    groups: dict[torch.Size, list[tuple[Tensor, int]]] = {}
    for number, of_image in enumerate(images):
        for view in of_image:
            groups.setdefault(view.shape, []).append((view, number))
    smallest = min(shape.numel() for shape in groups)
    total: Tensor | None = None
    for shape, group in groups.items():
        together = max(1, batch_size * smallest // shape.numel())
        for start in range(0, len(group), together):
            views, owners = zip(*group[start : start + together], strict=True)
            batch = torch.stack(views).contiguous(memory_format=torch.channels_last)
            rows = torch.tensor(owners, device=batch.device)
            for model in models:
                probabilities = torch.softmax(model(batch).float(), dim=1)
                if total is None:
                    total = probabilities.new_zeros(len(images), probabilities.shape[1])
                total.index_add_(0, rows, probabilities)
    assert total is not None
    counts = torch.tensor([len(of_image) * len(models) for of_image in images], device=total.device)
    return total / counts[:, None]
