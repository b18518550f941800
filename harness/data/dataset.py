"""A dataset: its parts, the batches of a training on it, and its fixed probe set."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.config import PROBE_SET, DataConfig
from harness.data.augment import crop_flip, flip, inception
from harness.data.check import SOURCES, count_classes
from harness.data.listing import list_part, list_parts
from harness.data.memory import Images
from harness.data.order import CPU, BatchOrder, Dice
from harness.data.part import Batch, Part
from harness.located import InputError

__all__ = ["BatchOrder", "Batches", "Dataset", "load_dataset", "load_held_out"]


class Batches:
    """The batches of a training from one step on: an iterator without end, to be closed.

    Measures how long its caller waits for it.
    """

    def __init__(self, source: Generator[Batch], streamed: bool) -> None:
        self._source, self._streamed = source, streamed
        self._waited, self._since = 0.0, time.perf_counter()

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        started = time.perf_counter()
        batch = next(self._source)
        self._waited += time.perf_counter() - started
        return batch

    def readings(self) -> dict[str, float]:
        """`time/data/wait_fraction`, the share of the time since the last reading that went by waiting for images.

        Nothing for images that lie in memory.
        """
        now = time.perf_counter()
        fraction = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return {"time/data/wait_fraction": min(1.0, fraction)} if self._streamed else {}

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes, if there are any."""
        self._source.close()


@dataclass(frozen=True)
class Dataset:
    """A training part, a held-out part that is the same for every seed, and the number of classes.

    batch_size: training images a step, over all processes. augment: distorts a normalised batch. streamed: whether
    images come from files while training.
    """

    train: Part
    held_out: Part
    num_classes: int
    batch_size: int
    augment: Callable[[Tensor, Dice], Tensor] | None = None
    streamed: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which an epoch passes; its incomplete last batch is left out."""
        return len(self.train) // self.batch_size

    def batches(self, seed: int, start_step: int = 0, rank: int = 0, world: int = 1) -> Batches:
        """The training batches of this process from `start_step` on: a pure function of seed, step and rank.

        Process `rank` of `world` gets its share of each batch; together they see what one process would. Raises
        InputError for a batch larger than the data set, or one that the processes cannot share evenly.
        """
        if self.batch_size % world:
            raise InputError([f"data.batch_size: {self.batch_size} is not divisible by {world} processes"])
        share = self.batch_size // world
        rows = slice(rank * share, (rank + 1) * share)
        device = self.train.labels.device
        order = BatchOrder(len(self.train), self.batch_size, seed, CPU if self.streamed else device)

        def batches() -> Generator[Batch]:
            for step, (images, labels) in enumerate(self.train.stream(order, start_step, rows), start_step):
                if self.augment is not None:
                    images = self.augment(images, Dice(seed, step, self.batch_size, rows, device))
                yield images.contiguous(memory_format=torch.channels_last), labels

        return Batches(batches(), self.streamed)

    def probe_set(self) -> Tensor:
        """The fixed probe set (256, 3, H, W): training images evenly spaced by position, unaugmented, for any seed."""
        return self.probe_batch()[0]

    def probe_batch(self) -> Batch:
        """The same with its labels (256,)."""
        count = min(PROBE_SET, len(self.train))
        positions = torch.arange(count, device=self.train.labels.device) * len(self.train) // count
        return self.train[positions]


def load_dataset(config: DataConfig, device: torch.device) -> Dataset:
    """The dataset that a configuration names, on the device. Raises InputError where it is not there or unusable."""
    train: Part
    held_out: Part
    if config.name == "imagefolder":
        from harness.data.folder import Folder

        train, held_out = (Folder(listing, config, device) for listing in list_parts(config))
        augment = {"none": None, "crop_flip": flip, "inception": inception}[config.augment or "none"]
        return Dataset(train, held_out, count_classes(config), config.batch_size, augment, streamed=True)
    if config.name in SOURCES:
        from harness.data.vision import load_vision

        train, held_out = load_vision(config, device)
    else:
        train, held_out = _load_floats(config, device)
    augment = crop_flip if config.augment == "crop_flip" else None
    return Dataset(train, held_out, count_classes(config), config.batch_size, augment)


def load_held_out(config: DataConfig, device: torch.device) -> Part:
    """The held-out part alone: of an image folder, only `val` need be there. Raises InputError."""
    if config.name != "imagefolder":
        return load_dataset(config, device).held_out
    from harness.data.folder import Folder

    return Folder(list_part(config, "val"), config, device)


def _load_floats(config: DataConfig, device: torch.device) -> tuple[Images, Images]:
    """Images that are floats from the start, normalised by mean and deviation of all values of the training part."""
    from harness.data.digits import load_digits
    from harness.data.synthetic import make_synthetic

    train, held_out = load_digits(config) if config.name == "digits" else make_synthetic(config)
    mean, std = train.images.mean(), train.images.std()

    def place(part: Images) -> Images:
        images = part.images.sub_(mean).div_(std).expand(-1, 3, -1, -1)
        return Images(images.to(device).contiguous(memory_format=torch.channels_last), part.labels.to(device))

    return place(train), place(held_out)
