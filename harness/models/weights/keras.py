"""Keras's files: arrays by layer and variable, in HDF5 or NumPy's archive, brought to torch's layout.

Keras 3 writes `.weights.h5` (`layers/KIND_I/vars/J`, the layer's own name in an attribute) and puts that file into a
`.keras` archive; Keras 2 wrote `.h5` (`LAYER/LAYER/VARIABLE:0`). An `.npz` names its arrays as Keras's `weight.path`
does: `np.savez(FILE, **{w.path: w.numpy() for w in model.weights})`.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

MISSING = "an HDF5 file, as Keras writes, and h5py is not installed: pip install 'residual-harness[keras]'"
AUTOMATIC = ("conv2d", "batch_normalization")
"""Kinds of layers that Keras numbers through a whole session, so that only their order tells which is which."""
VARIABLES: Mapping[tuple[str, int], tuple[str, ...]] = {
    ("conv2d", 1): ("kernel",),
    ("conv2d", 2): ("kernel", "bias"),
    ("dense", 1): ("kernel",),
    ("dense", 2): ("kernel", "bias"),
    ("batch_normalization", 3): ("beta", "moving_mean", "moving_variance"),
    ("batch_normalization", 4): ("gamma", "beta", "moving_mean", "moving_variance"),
}
"""Names of a layer's variables in the order in which `.weights.h5` numbers them, by its kind and their number."""


def read_hdf5(file: Path | IO[bytes]) -> dict[str, Tensor]:
    """The tensors of an HDF5 file, by `LAYER.VARIABLE`. Raises ValueError."""
    try:
        import h5py
    except ImportError:
        raise ValueError(MISSING) from None
    arrays: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}

    def collect(place: str, found: Any) -> None:
        """Links to other files are not followed by what calls this, and what lies in other files is not read."""
        if isinstance(found, h5py.Dataset):
            if found.is_virtual or found.external:
                raise ValueError(f"an HDF5 file whose `{place}` lies in another file: refused")
            arrays[place] = found[()]
        elif isinstance(found.attrs.get("name"), str):
            names[place] = found.attrs["name"]

    try:
        with h5py.File(file) as content:
            content.visititems(collect)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"an HDF5 file that is cut short or damaged ({error}): fetch it again") from None
    return _to_torch(_by_layer(arrays, names))


def read_archive(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.keras` archive, without its program. Raises ValueError."""
    with zipfile.ZipFile(path) as archive:
        return read_hdf5(io.BytesIO(archive.read("model.weights.h5")))


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The tensors of an `.npz`. Raises ValueError."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return _to_torch({place: content[place] for place in content.files})
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"an archive of NumPy's that is damaged or holds more than numbers ({error})") from None


def _by_layer(arrays: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Arrays of an HDF5 file by `LAYER/VARIABLE`; those of an optimizer are left out."""
    layered: dict[str, np.ndarray] = {}
    counts = Counter(place.rpartition("/")[0] for place in arrays)
    for place, array in arrays.items():
        group, _, variable = place.rpartition("/")
        if place.startswith("optimizer"):
            continue
        if not group.endswith("/vars"):  # Keras 2
            layered[place] = array
            continue
        if group not in names:
            raise ValueError(
                "a file of an early Keras 3, which does not name layers: write it with a later one, or .npz"
            )
        kind = re.sub(r"_\d+$", "", group.split("/")[-2])
        variables = VARIABLES.get((kind, counts[group]))
        layered[f"{names[group]}/{variables[int(variable)] if variables else variable}"] = array
    return layered


def _to_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays by `.../LAYER/VARIABLE:0` -> tensors by `LAYER.VARIABLE`, numbered layers counted from 0.

    Kernels (height, width, in, out) become (out, in, height, width), and (in, out) (out, in).
    """
    split = {tuple(place.removesuffix(":0").split("/")[-2:]): array for place, array in arrays.items()}
    if len(split) < len(arrays):
        raise ValueError("a file of Keras's in which layers of several networks have the same names: save one network")
    order = _counted_from_0({layer for layer, *_ in split})
    tensors: dict[str, Tensor] = {}
    for (layer, *variable), array in split.items():
        key = ".".join((order.get(layer, layer), *variable))
        try:
            tensor = torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape))
        except TypeError:
            raise ValueError(f"`{key}` is of {array.dtype}, which torch does not know") from None
        if variable == ["kernel"]:
            tensor = tensor.permute(3, 2, 0, 1) if tensor.dim() == 4 else tensor.t() if tensor.dim() == 2 else tensor
        tensors[key] = tensor
    return tensors


def _counted_from_0(layers: Iterable[str]) -> dict[str, str]:
    """A session's second network has conv2d_203, conv2d_204, ...: the names that it would have as the first."""
    renamed: dict[str, str] = {}
    for kind in AUTOMATIC:
        matches = map(re.compile(rf"{kind}(?:_(\d+))?").fullmatch, layers)
        made = sorted((int(match[1] or 0), match[0]) for match in matches if match)
        renamed |= {layer: numbered(kind, n) for n, (_, layer) in enumerate(made)}
    return renamed


def numbered(kind: str, number: int) -> str:
    """Keras's name of the layer of a kind that was made as this one of its session, counted from 0."""
    return f"{kind}_{number}" if number else kind
