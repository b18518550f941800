"""Standard streams that may be closed, full or cut: no run ends because nobody can read what is said of it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class _Lenient(io.TextIOWrapper):
    """A text stream that goes silent at the first write that fails, and shows what its encoding lacks as escapes."""

    failure: OSError | None = None

    def write(self, text: str, /) -> int:
        with self._silenced():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._silenced():
            super().flush()

    @contextlib.contextmanager
    def _silenced(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # what is left in the buffer goes there, now and at the interpreter's end
            os.close(nowhere)


@contextlib.contextmanager
def lenient_streams() -> Iterator[None]:
    """Standard output and error that lose what cannot be written, and raise nothing.

    A closed one is opened on nothing first, else the next file would take its place and get what is printed.
    """
    before = sys.stdout, sys.stderr
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
    lenient = [_lenient(stream, descriptor) for descriptor, stream in enumerate(before, 1)]
    sys.stdout, sys.stderr = lenient
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in lenient:
            stream.flush()
            if isinstance(stream, _Lenient):
                stream.detach()


def _lenient(stream: TextIO | None, descriptor: int) -> TextIO:
    """The stream, made lenient if it is the process's own; a test's or a notebook's stays as it is."""
    if stream is None:
        return _Lenient(io.FileIO(descriptor, "w", closefd=False), encoding="utf-8", errors="backslashreplace")
    if not isinstance(stream, io.TextIOWrapper) or not _is(stream, descriptor):
        return stream
    line_buffering = stream.line_buffering
    return _Lenient(stream.buffer, encoding=stream.encoding, errors="backslashreplace", line_buffering=line_buffering)


def _is(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError):
        return False


def lost_output() -> str | None:
    """Why standard output could not be written, but for a reader who had read enough (`| head`); None if it was."""
    failure = getattr(sys.stdout, "failure", None)
    if failure is None or failure.errno == errno.EPIPE:
        return None
    return str(failure.strerror)
