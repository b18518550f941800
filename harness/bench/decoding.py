"""How fast a folder of photographs is read, beside torchvision's ImageFolder and DataLoader."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from harness.config import DataConfig, RunConfig
from harness.data.dataset import load_dataset

SHAPE = (500, 375)
"""Width and height of a photograph, ImageNet's most common."""
BATCH = 16


def measure_decoding(image_size: int = 299, photographs: int = 64, batches: int = 12) -> list[float]:
    """Seconds of the harness over torchvision's for each batch of random views, in turns, each in this process alone.

    Both decode, cut out, resize, mirror and normalise: RandomResizedCrop and RandomHorizontalFlip there.
    """
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        _write(Path(folder), photographs)
        ours, theirs = _ours(Path(folder), image_size), _theirs(Path(folder), image_size)
        ratios = []
        for number in range(batches + 1):
            seconds = [_timed(each) for each in (ours, theirs)]
            if number:  # the first calls load what is needed
                ratios.append(seconds[0] / seconds[1])
        return ratios


def _timed(batches: Iterator[Any]) -> float:
    begin = time.perf_counter()
    next(batches)
    return time.perf_counter() - begin


def _ours(folder: Path, size: int) -> Iterator[Any]:
    fields = {"name": "imagefolder", "root": str(folder), "num_classes": 2, "image_size": size, "batch_size": BATCH}
    config: DataConfig = RunConfig.model_validate({"data": fields | {"workers": 0, "augment": "crop_flip"}}).data
    return iter(load_dataset(config, torch.device("cpu")).batches(0))


def _theirs(folder: Path, size: int) -> Iterator[Any]:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.RandomResizedCrop(size, antialias=True), transforms.RandomHorizontalFlip()]
    steps += [transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
    data = ImageFolder(str(folder / "train"), transforms.Compose(steps))
    loader: Iterable[Any] = torch.utils.data.DataLoader(data, BATCH, shuffle=True, drop_last=True)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def _write(folder: Path, photographs: int) -> None:
    """Cuttings of the photographs that scikit-learn ships, half of them in each of two classes, and one to hold out."""
    from sklearn.datasets import load_sample_images

    originals, random = load_sample_images().images, np.random.default_rng(0)
    for part, count in (("train", photographs // 2), ("val", 1)):
        for name, original in zip(("first", "second"), originals, strict=True):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                left, top = (
                    int(random.integers(size - cut)) for size, cut in zip(original.shape[1::-1], SHAPE, strict=True)
                )
                cutting = original[top : top + SHAPE[1], left : left + SHAPE[0]]
                Image.fromarray(cutting).save(folder / part / name / f"{number:03}.jpg", quality=90)
