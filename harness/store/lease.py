"""Who works on a run: a lease, a file `lease-N` in the run's folder that one process made and keeps alive.

Making it is atomic on every file system that has hard links, over a network too; N grows by one with each holder, so
that of two claimants one gets it, and a holder that was taken for dead sees that it is not the last any more. A holder
is judged dead

- on the machine that it ran on, at once: it keeps a lock (flock) on its file, which ends with it however it ends;
- from another machine, or where there are no locks, when its heartbeat has stood still for SILENCE seconds of the
  observer's own clock. No two clocks are compared.

A killed holder leaves nothing behind that somebody would have to clear away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from harness.files import named

BEAT = 5.0
"""Seconds between two heartbeats of a holder."""
SILENCE = 60.0
"""Seconds without a heartbeat after which a holder on another machine is dead: more than networks cache files for."""
_NAME = re.compile(r"lease-(\d+)")
_HELD, _FREE = b"held", b"free"


class Locked(Exception):
    """Another process works on this run.

    lives: whether that is known, or its heartbeat has yet to be seen to move or to stand still.
    """

    def __init__(self, message: str, lives: bool = True) -> None:
        super().__init__(message)
        self.lives = lives


class Lost(Locked):
    """This process worked on the run, was silent for too long, and another one has taken over."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lease of a folder until the block ends. Raises Locked, naming the holder, if another process does."""
    number = _last(folder)
    if number:
        _demand_free(folder / f"lease-{number}")
    with named(folder):
        lease = _Lease(folder, number + 1)
    _own[folder.absolute()] = lease
    try:
        yield
    finally:
        del _own[folder.absolute()]
        lease.release()


def check(folder: Path) -> None:
    """Raise Lost where this process held the lease of the folder and another one has taken over meanwhile."""
    if lease := _own.get(folder.absolute()):
        lease.check()


def is_held(folder: Path) -> bool:
    """Whether a living process holds the lease; of one on another machine, by its last heartbeat's time of change."""
    number = _last(folder)
    if not number:
        return False
    path = folder / f"lease-{number}"
    content = _read(path)
    if not content.startswith(_HELD):
        return False
    if (locked := _is_locked(path, content)) is not None:
        return locked
    with contextlib.suppress(OSError):
        return _now(folder) - path.stat().st_mtime < SILENCE
    return False


def holder(folder: Path) -> str:
    """The process that holds the lease, or held it last, in words; empty if none ever did."""
    number = _last(folder)
    return _words(_read(folder / f"lease-{number}")) if number else ""


class _Lease:
    """A lease of this process, with its lock and the thread that keeps its heart beating."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number, self._beats = folder, number, 0
        self._path = folder / f"lease-{number}"
        self._file = _make(self._path)
        later = _last(folder)
        if later != number:  # our view of the folder was old
            os.close(self._file)
            self._path.unlink(missing_ok=True)
            raise Locked(f"{folder} is being worked on by {_words(_read(folder / f'lease-{later}'))}")
        for older in _numbers(folder):
            if older < number:
                with contextlib.suppress(OSError):
                    (folder / f"lease-{older}").unlink()
        self._beaten, self._end = _elapsed(), threading.Event()
        self._heart = threading.Thread(target=self._live, name="lease", daemon=True)
        self._heart.start()

    def _live(self) -> None:
        while not self._end.wait(BEAT):
            self._beat()

    def _beat(self) -> None:
        # Opened anew: a network's file system shows others what was written when the file is closed.
        with contextlib.suppress(OSError):  # a full disk, a server away for a while: then others may take us for dead
            descriptor = os.open(self._path, os.O_WRONLY)
            try:
                self._beats += 1
                os.pwrite(descriptor, _state(_HELD, self._beats), 0)
                self._beaten = _elapsed()
            finally:
                os.close(descriptor)

    def check(self) -> None:
        """Raise Lost where there is a later lease."""
        if _elapsed() - self._beaten > SILENCE / 2:  # stopped or asleep until just now
            self._beat()
        last = _last(self._folder)
        if last != self._number:
            by = _words(_read(self._folder / f"lease-{last}")) if last else "somebody who removed the lease"
            raise Lost(f"{self._folder}: taken over by {by}, as nothing had been heard of this process")

    def release(self) -> None:
        """Give the lease back, unless it is lost."""
        self._end.set()
        self._heart.join()
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, _state(_FREE, self._beats), 0)
            finally:
                os.close(descriptor)
        os.close(self._file)


_own: dict[Path, _Lease] = {}
"""The leases that this process holds, by folder."""
_seen: dict[Path, tuple[bytes, float]] = {}
"""Leases of others: what they said, and since when by this process's clock."""


def _demand_free(path: Path) -> None:
    """Raise Locked where the holder of a lease lives or may live."""
    content = _read(path)
    if not content.startswith(_HELD):
        return
    words = f"{path.parent} is being worked on by {_words(content)}"
    locked = _is_locked(path, content)
    if locked:
        raise Locked(words)
    if locked is None:
        before, since = _seen.get(path, (content, _elapsed()))
        if before != content:
            _seen.pop(path, None)
            raise Locked(words)
        _seen[path] = (content, since)
        silent = _elapsed() - since
        if silent < SILENCE:
            raise Locked(f"{words}, unless that is dead: no heartbeat for {silent:.0f} s", lives=False)
    _seen.pop(path, None)


def _is_locked(path: Path, content: bytes) -> bool | None:
    """Whether the process that made a lease lives, where its lock tells: if it ran under this kernel, with locks."""
    if _kernel().encode() not in content:
        return None
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # it is not the last one any more
        return True
    except OSError:
        return None
    return False


def _make(path: Path) -> int:
    """A new lease, there whole and locked or not at all; its descriptor. Raises Locked where there is one."""
    content = _state(_HELD, 0) + f"\nprocess {os.getpid()} on {socket.gethostname()}\n{_kernel()}\n".encode()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    faster = Locked(f"{path.parent} is being worked on by another process, which was faster")
    descriptor = _locked_file(temporary, content)
    try:
        os.link(temporary, path)
    except (FileExistsError, FileNotFoundError):  # the latter: its holder has swept the folder
        os.close(descriptor)
        raise faster from None
    except OSError:  # a file system without hard links
        os.close(descriptor)
        try:
            return _locked_file(path, content)
        except FileExistsError:
            raise faster from None
    finally:
        temporary.unlink(missing_ok=True)
    return descriptor


def _locked_file(path: Path, content: bytes) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the heartbeat has to do
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, content)
    except BaseException:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def _state(word: bytes, beats: int) -> bytes:
    """The first line of a lease, always of one length: it is overwritten in place."""
    return word + b" %012d" % beats


def _words(content: bytes) -> str:
    """The holder, as a lease names it."""
    lines = content.decode(errors="replace").split("\n")
    return lines[1] if len(lines) > 1 and lines[1] else "another process"


def _read(path: Path) -> bytes:
    """What a lease says. An unreadable or half-written one is taken for that of another machine: its silence counts."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return _FREE
    except OSError:
        return _HELD
    return content if content.startswith(_FREE) else _HELD + content[len(_HELD) :]


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(found[1]) for path in folder.iterdir() if (found := _NAME.fullmatch(path.name))]
    except FileNotFoundError:
        return []


def _last(folder: Path) -> int:
    """The number of the folder's last lease, 0 if there is none."""
    return max(_numbers(folder), default=0)


@cache
def _kernel() -> str:
    """What is the same for all processes whose locks each other's are: the machine since it was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode():x}"


def _elapsed() -> float:
    """Seconds on a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _now(folder: Path) -> float:
    """The time by the clock that dates the folder's files, its server's; by this machine's where it cannot be asked."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"now")
            file.flush()
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
