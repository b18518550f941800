"""Images streamed from a folder of files, one folder a class, decoded in worker processes."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from harness.chance import RANDOM_VIEWS, chance
from harness.config import DataConfig
from harness.data.decoding import read_rgb
from harness.data.listing import Listing, Policy
from harness.data.order import BatchOrder
from harness.data.part import Batch
from harness.data.views import Layout, View, central, random_view
from harness.located import InputError
from harness.plain import plain

PREFETCH = 2
"""Batches that each worker process prepares ahead."""
UNREADABLE = -1
"""Label of an image that could not be read."""


class Key(NamedTuple):
    """An image to be read, and in which pass over the data set: together they fix its random view."""

    position: int
    epoch: int = 0


class Read(NamedTuple):
    """What a worker made of a key.

    groups: upright views of equal size, uint8 (V, h, w, 3). places: for each view its group, its place there, and
    whether it is mirrored. problems: images that could not be read, each with its path.
    """

    groups: list[Tensor]
    places: list[tuple[int, int, bool]]
    label: int
    problems: list[str]


class Stack(NamedTuple):
    """One view each of the readable images of a batch: uint8 (B, h, w, 3), labels (B,), and problems."""

    images: Tensor
    labels: Tensor
    problems: list[str]


Choose = Callable[[int, int, Key], Sequence[View]]


def _at_random(width: int, height: int, key: Key, *, size: int, seed: int) -> Sequence[View]:
    return [random_view(width, height, size, chance(RANDOM_VIEWS, seed, key.epoch, key.position))]


def _laid_out(width: int, height: int, key: Key, *, layout: Layout) -> Sequence[View]:
    return layout(width, height)


def _central(width: int, height: int, *, size: int, fraction: float) -> Sequence[View]:
    return [central(width, height, size, fraction)]


@dataclass(frozen=True)
class Reader(TorchDataset[Read]):
    """Reads files in a worker process. A pure function of the key, so that the number of workers changes nothing.

    substitute: under the policy `skip`, the next readable image stands in for one that cannot be read; else it is left
    out.
    """

    listing: Listing
    policy: Policy
    choose: Choose
    substitute: bool

    def __getitem__(self, key: Key) -> Read:
        problems: list[str] = []
        substitutes = len(self.listing) if self.substitute and self.policy == "skip" else 1
        for position in range(key.position, key.position + substitutes):
            position %= len(self.listing)
            path = self.listing.path(position)
            try:
                image = read_rgb(path)
            except Exception as error:  # a damaged file can fail in any way
                problems.append(f"{path}: cannot be read as an image: {error}")
                continue
            return Read(*resample(image, self.choose(*image.size, key)), int(self.listing.labels[position]), problems)
        return Read([], [], UNREADABLE, problems)


def resample(image: Image.Image, views: Sequence[View]) -> tuple[list[Tensor], list[tuple[int, int, bool]]]:
    """The distinct upright views of an image as `Read.groups`, and `Read.places`. Bilinear, antialiased."""
    groups: dict[tuple[int, int], list[View]] = {}
    for view in dict.fromkeys(view.upright() for view in views):
        groups.setdefault((view.width, view.height), []).append(view)
    tensors = [torch.stack([_resample_one(image, view) for view in group]) for group in groups.values()]
    where = {view: (number, i) for number, group in enumerate(groups.values()) for i, view in enumerate(group)}
    return tensors, [(*where[view.upright()], view.mirrored) for view in views]


def _resample_one(image: Image.Image, view: View) -> Tensor:
    """One upright view (h, w, 3)."""
    box = (view.left, view.top, view.right, view.bottom)
    resized = image.resize((view.width, view.height), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(resized))


def _stack(reads: list[Read]) -> Stack:
    readable = [read for read in reads if read.label != UNREADABLE]
    return Stack(
        torch.cat([read.groups[0] for read in readable]) if readable else torch.empty(0),
        torch.tensor([read.label for read in readable], dtype=torch.int64),
        [problem for read in reads for problem in read.problems],
    )


def _single(reads: list[Read]) -> Read:
    return reads[0]


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Folder:
    """One part of a data set of image files. Values are scaled to [-1, 1].

    `corrupt`: the images that could not be read so far, each with its path. Under the policy `refuse` the first of them
    raises InputError; under `skip` each is reported once on stderr.
    """

    def __init__(self, listing: Listing, config: DataConfig, device: torch.device) -> None:
        assert config.workers is not None and config.eval_crop is not None and config.corrupt is not None
        self.listing, self.size, self.workers, self.device = listing, config.image_size, config.workers, device
        self.policy: Policy = config.corrupt
        self.random_views = config.augment != "none"
        self.labels = torch.from_numpy(listing.labels).to(device)
        self.corrupt: list[str] = []
        self._evaluated = partial(_laid_out, layout=partial(_central, size=self.size, fraction=config.eval_crop))

    def __len__(self) -> int:
        return len(self.listing)

    def __getitem__(self, index: Tensor | slice) -> Batch:
        """The central views at these positions, read in this process."""
        reader = Reader(self.listing, self.policy, self._evaluated, substitute=True)
        positions = torch.arange(len(self))[index if isinstance(index, slice) else index.cpu()]
        return self._place(_stack([reader[Key(position)] for position in positions.tolist()]))

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """The central views of every readable image, in order; the last batch may be smaller."""
        positions = range(len(self))
        keys = ([Key(i) for i in positions[start : start + batch_size]] for start in positions[::batch_size])
        for stack in self._load(keys, self._evaluated, _stack, substitute=False):
            self._heed(stack.problems)
            if len(stack.labels):
                yield self._place(stack)

    def stream(self, order: BatchOrder, start_step: int, rows: slice) -> Generator[Batch]:
        """Random views, or central ones without augmentation, from `start_step` on, without end."""
        keys = (
            [Key(position, step // order.steps_per_epoch) for position in order[step][rows].tolist()]
            for step in itertools.count(start_step)
        )
        choose = partial(_at_random, size=self.size, seed=order.seed) if self.random_views else self._evaluated
        for stack in self._load(keys, choose, _stack, substitute=True):
            yield self._place(stack)

    def views(self, layout: Layout) -> Iterator[tuple[list[Tensor], int]]:
        """For every readable image in order: its views, each (3, h, w), and its label."""
        keys = ([Key(position)] for position in range(len(self)))
        for read in self._load(keys, partial(_laid_out, layout=layout), _single, substitute=False):
            self._heed(read.problems)
            if read.label == UNREADABLE:
                continue
            groups = [self._normalise(group) for group in read.groups]
            yield [groups[g][i].flip(-1) if mirrored else groups[g][i] for g, i, mirrored in read.places], read.label

    def _load(
        self, keys: Iterable[list[Key]], choose: Choose, collate: Callable[[list[Read]], Any], *, substitute: bool
    ) -> Iterable[Any]:
        """What `collate` makes of each list of keys, in order, read ahead in worker processes."""
        workers = min(self.workers, _cores())
        return DataLoader(
            Reader(self.listing, self.policy, choose, substitute),
            batch_sampler=keys,
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it draws from the global one, and a run that continues would differ
        )

    def _place(self, stack: Stack) -> Batch:
        self._heed(stack.problems)
        if not len(stack.labels):
            raise InputError([f"{self.listing.folder}: not one image can be read"])
        return self._normalise(stack.images), stack.labels.to(self.device, non_blocking=True)

    def _normalise(self, images: Tensor) -> Tensor:
        """uint8 (V, h, w, 3) on the host -> float32 (V, 3, h, w) in [-1, 1] on the device, channels-last."""
        return images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    def _heed(self, problems: Sequence[str]) -> None:
        """Refuse images that cannot be read, or report each once."""
        if problems and self.policy == "refuse":
            raise InputError([*problems, "data.corrupt=skip leaves such files out"])
        for problem in problems:
            if problem not in self.corrupt:
                self.corrupt.append(problem)
                print(plain(f"left out: {problem}"), file=sys.stderr)
