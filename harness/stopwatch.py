"""How long something takes, summed over all times that it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Stopwatch:
    """Seconds of wall time; what runs inside of something that is timed already counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the seconds of the block."""
        before, started = self.seconds, perf_counter()
        try:
            yield
        finally:
            self.seconds = before + perf_counter() - started
