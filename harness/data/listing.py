"""What lies in a folder of images, one folder a class. Looks at names only; imports neither torch nor PIL."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from harness.config import DataConfig
from harness.located import InputError
from harness.plain import plain

SUFFIXES = (".jpg", ".jpeg", ".png")
"""What the name of an image file ends with, in any case."""
SHOWN = 10
"""Problems of one kind that are listed one by one."""
Part = Literal["train", "val"]
PARTS: tuple[Part, Part] = ("train", "val")
Policy = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Listing:
    """The images of one part, ordered by class and name.

    names: `CLASS/FILE` as encoded bytes, labels: the class's place in `classes`, int64; both (N,). Arrays, not lists of
    objects: worker processes share them with the process that forked them.
    """

    folder: Path
    classes: tuple[str, ...]
    names: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, position: int) -> Path:
        """File of the image at a position."""
        return self.folder / os.fsdecode(bytes(self.names[position]))


def list_parts(config: DataConfig) -> tuple[Listing, Listing]:
    """The training images, under `root/train`, and the held-out ones, under `root/val`, of the same classes.

    Raises InputError with every problem of both, as `list_images` says.
    """
    listings, problems = [], []
    for part in PARTS:
        try:
            listings.append(list_part(config, part))
        except InputError as error:
            problems += error.problems
    if not problems and listings[0].classes != listings[1].classes:
        odd = sorted(set(listings[0].classes) ^ set(listings[1].classes))
        problems.append(
            f"{config.root}: train and val have different classes; only in one of them: {', '.join(odd[:SHOWN])}"
        )
    if problems:
        raise InputError(problems)
    return listings[0], listings[1]


def list_part(config: DataConfig, part: Part) -> Listing:
    """One part alone. Raises InputError."""
    assert config.root is not None and config.num_classes is not None and config.corrupt is not None
    return list_images(Path(config.root) / part, config.num_classes, config.corrupt)


def list_images(folder: Path, num_classes: int, policy: Policy) -> Listing:
    """The images under `folder/CLASS/`, hidden files left out.

    Raises InputError with every problem: no such folder, images that lie outside a class folder, another number of
    classes, a class without images, and files that are no images by their name. Those last are reported on stderr and
    left out instead when the policy is `skip`.
    """
    if not folder.is_dir():
        raise InputError([f"{folder}: no such folder; expected {folder}/CLASS/IMAGE.jpg, one folder a class"])
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    classes = tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    problems: list[str] = []
    if not classes:
        loose = f"{len(entries)} files lie in it directly" if entries else "it is empty"
        raise InputError([f"{folder}: no class folders ({loose}); expected {folder}/CLASS/IMAGE.jpg"])
    if len(classes) != num_classes:
        problems.append(f"{folder}: {len(classes)} class folders, but data.num_classes is {num_classes}")
    names: list[bytes] = []
    counts: list[int] = []
    strangers: list[str] = []
    for name in classes:
        files = sorted(entry.name for entry in os.scandir(folder / name) if not entry.name.startswith("."))
        images = [file for file in files if file.lower().endswith(SUFFIXES)]
        strangers += [str(folder / name / file) for file in files if not file.lower().endswith(SUFFIXES)]
        if not images:
            problems.append(f"{folder / name}: no images in this class folder; {_expected()}")
        names += [os.fsencode(f"{name}/{file}") for file in images]
        counts.append(len(images))
    notes = _shortened([f"{path}: not an image by its name; {_expected()}" for path in strangers])
    if policy == "refuse" and notes:
        problems += [*notes, "data.corrupt=skip leaves such files out"]
    if problems:
        raise InputError(problems)
    for note in notes:
        print(plain(f"left out: {note}"), file=sys.stderr)
    return Listing(folder, classes, np.array(names), np.repeat(np.arange(len(classes)), counts))


def _expected() -> str:
    return f"images end in {', '.join(SUFFIXES)}"


def _shortened(problems: Sequence[str]) -> list[str]:
    more = len(problems) - SHOWN
    return [*problems[:SHOWN], *([f"... and {more} more such files"] if more > 0 else [])]
