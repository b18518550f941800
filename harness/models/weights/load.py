"""A state dict from elsewhere loaded into a network: the one that fits, whole, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.models.network import Network
from harness.models.weights.files import read
from harness.models.weights.names import SCHEMES, Names, StateDict, known_names

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Modules that torch puts around others: data-parallel and averaged, compiled, sharded, checkpointed."""
BOOKKEEPING = "n_averaged"
"""A count that torch's AveragedModel keeps beside the weights."""
SHOWN = 4
"""Tensors of one problem that are named."""


@dataclass(frozen=True)
class Fit:
    """A state dict under the network's own keys, as far as it fits."""

    tensors: dict[str, Tensor]
    met: int
    """Tensors of the network that the state dict has by name."""
    problems: tuple[str, ...]


def load_weights(model: Network, source: str | Path | Mapping[str, Any]) -> None:
    """Load a file of weights, or its content, of this network or of the same one in another package.

    Files: safetensors, torch's with tensors and plain values only, Keras's .weights.h5, .h5 and .keras (with h5py) and
    .npz, told by their content. Packages: timm, torchvision, Cadene's pretrainedmodels, facenet-pytorch (its head, in
    evaluation a linear one, becomes the classifier) and Keras, whose batch-norm has no scale, so that ours is 1.

    A checkpoint may hold the state dict under any key. A name that all keys begin with (`model.`), and those of torch's
    wrappers anywhere (`module.`, `_orig_mod.`), are left out. Batch-norm's count of batches may be absent, and weights
    of an auxiliary head are left unread by a network without one. Of a checkpoint of this harness the current
    parameters are taken, from which its training goes on; its average is no whole state dict.

    Raises ValueError, and loads nothing, where a tensor is missing, left over, of another shape or kind or not finite;
    where several different state dicts of a file fit, so that one would be a guess (`state_dict` and
    `state_dict_ema`); and, saying what it is, where the file is none of these.
    """
    content = source if isinstance(source, Mapping) else read(Path(source))
    try:
        _load(model, content)
    except ValueError as error:
        raise ValueError(f"{source}: {error}" if isinstance(source, str | Path) else str(error)) from None


def _load(model: Network, content: Any) -> None:
    found = dict(_state_dicts(content))
    if not found:
        held = _listed(list(map(repr, content))) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"not a state dict (a mapping of names to tensors), but {held or 'an empty mapping'}")
    fits = {place: _fit(model, state_dict) for place, state_dict in found.items()}
    good = {place: fit for place, fit in fits.items() if not fit.problems}
    if not good:
        place, best = max(fits.items(), key=lambda each: each[1].met)
        raise ValueError("; ".join((f"the weights{place and f' in {place}'} do not fit this network", *best.problems)))
    first, *others = good.values()
    if not all(_equal(first.tensors, other.tensors) for other in others):
        raise ValueError(
            f"several state dicts fit this network, and they differ: {', '.join(good)}; "
            "save the one that is meant in a file of its own"
        )
    model.load_state_dict(first.tensors)


def _equal(a: StateDict, b: StateDict) -> bool:
    return all(torch.equal(tensor, b[key]) for key, tensor in a.items())


def _state_dicts(content: Any) -> Iterator[tuple[str, StateDict]]:
    """Every mapping in the content that holds tensors by name, with the keys that lead to it."""
    waiting, seen = [("", content)], set()
    while waiting:
        place, value = waiting.pop(0)
        if not isinstance(value, Mapping) or id(value) in seen:  # a pickle may hold itself
            continue
        seen.add(id(value))
        tensors = {key: each for key, each in value.items() if isinstance(key, str) and isinstance(each, Tensor)}
        if tensors:
            yield place, tensors
        waiting += [(f"{place}[{key!r}]", each) for key, each in value.items()]


def _fit(model: Network, state_dict: StateDict) -> Fit:
    """The state dict under the names that meet most of the network's tensors."""
    fits = [_compare(model, bare, names) for names in known_names(model) for bare in _bare(state_dict)]
    best = max(fits, key=lambda fit: (fit.met, -len(fit.problems)))
    if best.met:
        return best
    packages = ", ".join(names.source for names in known_names(model))
    others = ""
    if model.config.name not in SCHEMES:
        others = f"; other packages' names are known for {', '.join(SCHEMES)}"
    elif model.config.stem != "paper":
        others = "; the networks of other packages have the paper's stem"
    theirs = _listed(list(state_dict))
    return Fit({}, 0, (f"none of its {len(state_dict)} tensors has a name that {packages} gives it: {theirs}{others}",))


def _bare(state_dict: StateDict) -> Iterator[StateDict]:
    """The state dict without wrappers, and then without each name that all its keys begin with."""
    paths = {tuple(part for part in key.split(".") if part not in WRAPPERS): key for key in state_dict}
    paths.pop((BOOKKEEPING,), None)
    if len(paths) < len(state_dict) - (BOOKKEEPING in state_dict):  # two keys differ in their wrappers only
        yield state_dict
        return
    while paths:
        yield {".".join(path): state_dict[key] for path, key in paths.items()}
        if len({path[0] for path in paths}) > 1 or any(len(path) == 1 for path in paths):
            return
        paths = {path[1:]: key for path, key in paths.items()}


def _compare(model: Network, state_dict: StateDict, names: Names) -> Fit:
    theirs, own = names.convert(state_dict), model.state_dict()
    keys = {key: names.keys.get(key, key) for key in own}
    tensors = {key: theirs[keys[key]] for key in own if keys[key] in theirs}
    met = len(tensors)
    for key, value in names.absent.items():
        tensors.setdefault(key, torch.full_like(own[key], value))
    used = set(keys.values())
    shapes = [(keys[key], tuple(own[key].shape), tuple(tensor.shape)) for key, tensor in tensors.items()]
    problems = {
        "missing": [keys[key] for key in own if key not in tensors],
        "left over": [key for key in theirs if key not in used and not key.startswith(names.unread)],
        "of another shape": [f"{key} is {found}, not {wanted}" for key, wanted, found in shapes if found != wanted],
        "of another kind": [
            f"{keys[key]} is {tensor.dtype}" for key, tensor in tensors.items() if not _same_kind(tensor, own[key])
        ],
    }
    if not any(problems.values()):
        finite = {key: bool(tensor.to(own[key].dtype).isfinite().all()) for key, tensor in tensors.items()}
        problems["not finite"] = [keys[key] for key in own if not finite[key]]
    told = tuple(f"{len(which)} {what}: {_listed(which)}" for what, which in problems.items() if which)
    return Fit(tensors, met, told)


def _same_kind(tensor: Tensor, own: Tensor) -> bool:
    """Whether it holds plain numbers that become the network's: fractions fractions, whole numbers whole ones."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_complex()
    return plain and (tensor.is_floating_point() or not own.is_floating_point())


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
