"""What a file is, told by its first bytes and not by its name."""

from __future__ import annotations

from pathlib import Path

HEAD = 512
"""Bytes of a file that tell what it is."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the content it stands for: fetch that with `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer, not the content it stands for: fetch that with `git annex get`"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"\xfd7zXZ\x00", "compressed with xz: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it first"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a single NumPy array, without a name"),
    (b"GGUF", "a GGUF file"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)
_TEXTS: tuple[tuple[str, str], ...] = (
    ("<!doctype html", "an HTML page, not the content it links to: a download that ended at a web page"),
    ("<html", "an HTML page, not the content it links to: a download that ended at a web page"),
    ("<?xml", "an XML document: an error message of a download, perhaps"),
    ("{", "a JSON text"),
    ("[", "a JSON text"),
)


def describe(path: Path) -> str:
    """What the file is, in words that end a sentence. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "an empty file"
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            return what
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if not head.strip(b"\0"):
        return "a file that begins with nothing but zeros: a download that did not end, perhaps"
    try:
        text = head.decode("utf-8-sig", errors="strict" if len(head) < HEAD else "ignore").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or not all(letter.isprintable() or letter.isspace() for letter in text):
        return f"a file of an unknown kind, which begins with the bytes {head[:8].hex(' ')}"
    for beginning, what in _TEXTS:
        if text.lower().startswith(beginning):
            return what
    return f"a text, which begins {text.splitlines()[0][:40]!r}"
