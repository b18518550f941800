"""A polite end: a training that is asked to stop saves a checkpoint before it does."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stopped(KeyboardInterrupt):
    """The end of a training that was asked to stop, its checkpoint being saved."""


_asked = threading.Event()


def asked() -> bool:
    """Whether this process was asked to stop."""
    return _asked.is_set()


@contextlib.contextmanager
def on(*signals: signal.Signals) -> Iterator[list[signal.Signals]]:
    """Let these signals ask for a stop until the block ends; gives those that have come. Only in the main thread."""
    came: list[signal.Signals] = []

    def ask(number: int, _: object) -> None:
        came.append(signal.Signals(number))
        _asked.set()

    before = {each: signal.signal(each, ask) for each in signals}
    try:
        yield came
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        _asked.clear()
