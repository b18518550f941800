"""A file that cannot be used, and why."""

from __future__ import annotations

from pathlib import Path


class Damaged(Exception):
    """A file of a run cannot be read; the message names the file and says what is wrong with it."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(f"{path}: damaged: {why}")
