"""Who works on a run: an advisory lock, which ends with its process, however that ends.

A killed holder leaves nothing behind that would have to be judged stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from harness.files import named

_ATTEMPTS, _PAUSE = 20, 0.01


class Locked(Exception):
    """Another living process works on this run."""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file until the block ends. Raises Locked, naming the holder, if another process does."""
    with named(path), path.open("a+") as file:
        for attempt in range(1, _ATTEMPTS + 1):  # `is_held` takes it for microseconds; that is no holder
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == _ATTEMPTS:
                    holder = path.read_text() or "another process"
                    raise Locked(f"{path.parent} is being worked on by {holder}") from None
                time.sleep(_PAUSE)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock file."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
