"""Whether the images that a configuration names are there, told before a run starts. Imports neither torch nor PIL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from harness.config import CLASSES, TRAINING_IMAGES, DataConfig
from harness.data.listing import list_parts
from harness.located import InputError


@dataclass(frozen=True)
class Source:
    """torchvision's class for a dataset, and the files that it reads, under the root folder."""

    name: str
    folder: str
    files: tuple[str, ...]


SOURCES: Mapping[str, Source] = {
    "cifar10": Source(
        "CIFAR10", "cifar-10-batches-py", (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
    ),
    "cifar100": Source("CIFAR100", "cifar-100-python", ("train", "test", "meta")),
    "fashion_mnist": Source(
        "FashionMNIST",
        "FashionMNIST/raw",
        tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")),
    ),
}


def check_data(config: DataConfig) -> None:
    """Raise InputError, with every problem, where the images are not there or are not what the configuration says.

    Nothing is decoded or downloaded. A folder's names are read whole: a second or two for ImageNet.
    """
    if config.name == "imagefolder":
        train, _ = list_parts(config)
        if config.batch_size > len(train):
            problem = f"data.batch_size: {config.batch_size} is above the {len(train)} images in {train.folder}"
            raise InputError([problem])
    elif config.name in SOURCES:
        check_source(config)


def check_source(config: DataConfig) -> None:
    """Raise InputError unless torchvision is there, and the dataset's files are or may be downloaded."""
    source, root = SOURCES[config.name], root_folder(config)
    if find_spec("torchvision") is None:
        install = "pip install 'residual-harness[vision]'"
        raise InputError([f"data.name: {config.name} is read by torchvision, which is not installed: {install}"])
    folder = root / source.folder
    missing = [name for name in source.files if not (folder / name).is_file()]
    if missing and not config.download:
        raise InputError(
            [
                f"data.root: {config.name} is not in {root}; expected in {folder} the files {', '.join(source.files)} "
                f"(missing: {', '.join(missing)}); data.download=true fetches them"
            ]
        )


def root_folder(config: DataConfig) -> Path:
    """The folder that holds the dataset."""
    assert config.root is not None
    return Path(config.root)


def count_classes(config: DataConfig) -> int:
    """Number of classes, without loading anything."""
    return config.num_classes or CLASSES[config.name]


def count_training_images(config: DataConfig) -> int:
    """Number of training images. Raises InputError as `check_data` does; a folder's names are read whole."""
    if config.name == "imagefolder":
        return len(list_parts(config)[0])
    return config.num_images or TRAINING_IMAGES[config.name]
