"""The named tensors of a file, whatever it is called. No code that a file holds is ever run."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from harness.models.weights import keras
from harness.signatures import describe

READ = "safetensors, torch's files, and Keras's .weights.h5, .h5, .keras and .npz are read"
_PICKLE = b"\x80"
_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_LONGEST_HEADER = 100_000_000
"""Bytes of JSON, after eight that count them, with which a safetensors file may begin (its own limit)."""


def read(path: Path) -> Any:
    """What a file holds: tensors by name, perhaps inside other mappings, as in a checkpoint.

    Raises ValueError that says what the file is and what to do, where that is anything else or damaged.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a folder, not a file")
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: a device or pipe, not a file")
    try:
        return _read(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(16)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER:
        return _read_safetensors(path)
    if head.startswith(_HDF5):
        return keras.read_hdf5(path)
    if head.startswith(_ZIP):
        return _read_zip(path)
    if head.startswith(_PICKLE):
        return _read_torch(path)
    raise ValueError(f"{describe(path)} ({READ})")


def _read_zip(path: Path) -> Any:
    """A zip archive is torch's, NumPy's or Keras's by what lies in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise ValueError("a torch file or another zip archive, cut short or damaged: fetch it again") from None
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside:
        raise ValueError("a TorchScript program, which is not run: save the state_dict() of torch.jit.load(FILE)")
    if "data.pkl" in inside:
        return _read_torch(path)
    if "model.weights.h5" in names:
        return keras.read_archive(path)
    if names and all(name.endswith(".npy") for name in names):
        return keras.read_arrays(path)
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise ValueError(f"a zip archive with {listed} in it: unpack it first")


def _read_torch(path: Path) -> Any:
    try:
        # The open file, since torch reads a path by its suffix; and it warns about pickles that it then refuses.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error) or not _ends(path):
            raise ValueError("a pickle that is cut short or damaged: fetch it again") from None
        what = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))
        which = f", {what[1]}," if what else ""
        raise ValueError(
            f"a pickle with more than tensors and plain values in it{which} which could run code: refused; "
            "save the state_dict() alone"
        ) from None
    except Exception as error:  # a damaged file can fail in any way
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
        raise ValueError(f"a torch file that is cut short or damaged ({reason}): fetch it again") from None


def _ends(path: Path) -> bool:
    """Whether a file's pickles are whole. torch's older files are five, with raw numbers after them."""
    with path.open("rb") as file:
        if file.read(len(_ZIP)) == _ZIP:
            return True
        file.seek(0)
        try:
            for _ in range(5):
                list(pickletools.genops(file))
                if not file.peek(1):
                    break
        except ValueError:
            return False
    return True


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"a safetensors file that is cut short or damaged ({error}): fetch it again") from None
