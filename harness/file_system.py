"""What the file system of a folder can be trusted with when several machines work in it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_STORE = "an object store, which does not append to files and lets two machines make the same one"
_HOST = "a folder of this machine's host"
_LATE = "a share that shows others what was written only after a while"
_UNSAFE = {
    "fuse.s3fs": _STORE, "fuse.goofys": _STORE, "fuse.mountpoint-s3": _STORE, "fuse.gcsfuse": _STORE,
    "fuse.blobfuse": _STORE, "fuse.blobfuse2": _STORE, "fuse.rclone": _STORE, "fuse.ossfs": _STORE,
    "9p": _HOST, "virtiofs": _HOST, "vboxsf": _HOST, "fuse.vmhgfs-fuse": _HOST, "fuse.grpcfuse": _HOST,
    "cifs": _LATE, "smb3": _LATE, "fuse.sshfs": _LATE, "afs": _LATE,
}  # fmt: skip
"""Why a file system of this name, as the kernel calls it, does not let machines see at once who holds a run."""


def kind(folder: Path, mounts: Path = _MOUNTS) -> str:
    """The kernel's name for the file system of a folder (`ext4`, `nfs4`, `fuse.s3fs`); empty if it does not say.

    Source: proc_pid_mountinfo(5). The folder need not be there yet.
    """
    folder = folder.resolve()
    found = ""
    longest = -1
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(_unescaped(before.split(" ")[4]))
        if (folder == point or point in folder.parents) and len(point.parts) >= longest:  # a later mount hides earlier
            longest, found = len(point.parts), after.split(" ")[0]
    return found


def warning(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """What is unsafe when several machines work in a folder, which is there; None where nothing is known to be.

    Asks for the file system's kind, and whether it has hard links, by which a file can be made by one of two at once.
    """
    name = kind(folder, mounts)
    if name in _UNSAFE:
        why = f"it is on {name}, {_UNSAFE[name]}"
    elif not _links(folder):
        why = f"it is on {name or 'a file system'} without hard links"
    else:
        return None
    return f"{folder}: {why}: two machines may both work on one run; start runs in it from one machine at a time"


def _links(folder: Path) -> bool:
    """Whether a file in the folder can be given a second name."""
    first = folder / f".links.{uuid.uuid4().hex[:12]}.tmp"
    second = first.with_name(f"{first.name[:-4]}-2.tmp")
    try:
        first.touch()
        os.link(first, second)
        return second.exists()
    except OSError:
        return False
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)


def _unescaped(text: str) -> str:
    """A path as mountinfo writes it, with spaces and the like as octal numbers."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
