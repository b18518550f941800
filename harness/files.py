"""Files that are there whole or not at all, and what the system says when they cannot be."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

TEMPORARY = ".*.tmp"
"""Pattern of the names of files that are being written."""

_REMEDIES: Mapping[int, str] = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "a limit of this process (`ulimit -f`) or of the file system: raise it, or choose another --out",
    errno.EROFS: "mounted read-only: choose another --out",
    errno.EACCES: "give yourself the right, or choose another --out",
    errno.EPERM: "give yourself the right, or choose another --out",
    errno.ENOLCK: "this file system has no locks: let TMPDIR be on a local disk",
    errno.EOPNOTSUPP: "this file system has no locks: let TMPDIR be on a local disk",
    errno.EMFILE: "too many files are open: raise `ulimit -n`, or take fewer --workers",
    errno.ENAMETOOLONG: "choose a shorter --out",
}


def explain_system(error: OSError) -> str:
    """A system error in words: the file, the cause, and what helps where that is known."""
    cause = os.strerror(error.errno) if error.errno else str(error)
    remedy = _REMEDIES.get(error.errno or 0)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    return f"{where}{cause}{f' ({remedy})' if remedy else ''}"


@contextlib.contextmanager
def named(path: Path, instead_of: Path | None = None) -> Iterator[None]:
    """Let a system error that names no file, or the temporary one, name this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or error.filename == str(instead_of)):
            raise type(error)(error.errno, os.strerror(error.errno), str(path)) from error
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` in the end: a reader sees the old or the new, never a part.

    What a process leaves that is killed meanwhile has a name of the form TEMPORARY.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")  # process numbers repeat in containers
    try:
        with named(path, temporary):
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by `replacing` it."""
    with replacing(path) as file:
        file.write(content)


def write_new(path: Path, content: bytes) -> bool:
    """Write a file where none is, whole or not at all; False, and nothing written, where one is."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    with named(path):
        try:
            write_atomically(temporary, content)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                try:
                    with path.open("xb") as file:
                        file.write(content)
                except FileExistsError:
                    return False
            return True
        finally:
            temporary.unlink(missing_ok=True)


def numbered(path: Path) -> Path:
    """The first of `path-1`, `path-2`, ... that is not there."""
    number = 1
    while os.path.lexists(free := path.with_name(f"{path.name}-{number}")):
        number += 1
    return free
