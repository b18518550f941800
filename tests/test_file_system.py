"""What a folder's file system is, and what several machines cannot do in it."""

import errno
import os
from pathlib import Path

import pytest

from harness import file_system


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    lines = [
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
        f"30 22 0:40 / {tmp_path}/cluster rw shared:1 - nfs4 server:/export rw,vers=4.2",
        f"31 30 0:41 / {tmp_path}/cluster/two\\040words rw - fuse.s3fs s3fs rw",
        f"32 22 0:42 / {tmp_path}/hidden rw - ext4 /dev/vdb rw",
        f"33 22 0:43 / {tmp_path}/hidden rw - 9p host rw",
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        (".", "ext4"),
        ("cluster", "nfs4"),
        ("cluster/out/runs", "nfs4"),
        ("clusters", "ext4"),
        ("cluster/two words/out", "fuse.s3fs"),
        ("hidden", "9p"),
    ],
)
def test_a_folder_is_on_the_last_of_the_longest_mounts_above_it(
    tmp_path: Path, mounts: Path, folder: str, expected: str
) -> None:
    assert file_system.kind(tmp_path / folder, mounts) == expected


def test_where_the_kernel_does_not_say_the_kind_is_unknown(tmp_path: Path) -> None:
    assert file_system.kind(tmp_path, tmp_path / "none") == ""


def test_an_object_store_is_said_to_be_unsafe(tmp_path: Path, mounts: Path) -> None:
    folder = tmp_path / "cluster/two words"
    said = file_system.warning(folder, mounts)
    assert said is not None and said.startswith(f"{folder}: it is on fuse.s3fs, an object store")
    assert said.endswith("start runs in it from one machine at a time")


def test_a_file_system_without_hard_links_is_said_to_be_unsafe(
    tmp_path: Path, mounts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert file_system.warning(tmp_path, mounts) is None

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    assert "it is on ext4 without hard links" in (file_system.warning(tmp_path, mounts) or "")
    assert [path.name for path in tmp_path.iterdir()] == ["mountinfo"], "nothing is left behind"


def test_here_nothing_is_unsafe(tmp_path: Path) -> None:
    assert file_system.kind(tmp_path) != "" or not Path("/proc").exists()
    assert file_system.warning(tmp_path) is None
