"""Weights from elsewhere: timm's state dicts and local files. Nothing is loaded unless everything fits."""

from __future__ import annotations

import pickle
import string
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.models.layers import ConvLayer
from harness.models.network import Network

_LETTERS = string.ascii_lowercase[1:]

# timm's names of the layers with weights, in the order in which an image passes them.


def _under(node: str, leaves: str) -> Iterator[str]:
    return (f"{node}.{leaf}" for leaf in leaves.split())


def _inception_resnet_v2(repeats: Sequence[int]) -> Iterator[str]:
    yield from ("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a")
    yield from _under("mixed_5b", "branch0 branch1.0 branch1.1 branch2.0 branch2.1 branch2.2 branch3.1")
    for i in range(repeats[0]):
        yield from _under(f"repeat.{i}", "branch0 branch1.0 branch1.1 branch2.0 branch2.1 branch2.2 conv2d")
    yield from _under("mixed_6a", "branch0 branch1.0 branch1.1 branch1.2")
    for i in range(repeats[1]):
        yield from _under(f"repeat_1.{i}", "branch0 branch1.0 branch1.1 branch1.2 conv2d")
    yield from _under("mixed_7a", "branch0.0 branch0.1 branch1.0 branch1.1 branch2.0 branch2.1 branch2.2")
    for i in range(repeats[2]):
        node = f"repeat_2.{i}" if i < repeats[2] - 1 else "block8"
        yield from _under(node, "branch0 branch1.0 branch1.1 branch1.2 conv2d")
    yield from ("conv2d_7b", "classif")


def _inception_v4(repeats: Sequence[int]) -> Iterator[str]:
    yield from _under("features", "0 1 2 3.conv")
    yield from _under("features.4", "branch0.0 branch0.1 branch1.0 branch1.1 branch1.2 branch1.3")
    yield "features.5.conv"
    a = "branch0 branch1.0 branch1.1 branch2.0 branch2.1 branch2.2 branch3.1"
    b = "branch0 branch1.0 branch1.1 branch1.2 branch2.0 branch2.1 branch2.2 branch2.3 branch2.4 branch3.1"
    c = "branch0 branch1_0 branch1_1a branch1_1b branch2_0 branch2_1 branch2_2 branch2_3a branch2_3b branch3.1"
    reduction_a = "branch0 branch1.0 branch1.1 branch1.2"
    reduction_b = "branch0.0 branch0.1 branch1.0 branch1.1 branch1.2 branch1.3"
    modules = [a] * repeats[0] + [reduction_a] + [b] * repeats[1] + [reduction_b] + [c] * repeats[2]
    for index, leaves in enumerate(modules, start=6):
        yield from _under(f"features.{index}", leaves)
    yield "last_linear"


def _inception_v3(repeats: Sequence[int]) -> Iterator[str]:
    a = "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 branch_pool"
    b = (
        "branch1x1 branch7x7_1 branch7x7_2 branch7x7_3 "
        "branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5 branch_pool"
    )
    c = (
        "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b "
        "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a branch3x3dbl_3b branch_pool"
    )
    yield from ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
    for letter in _LETTERS[: repeats[0]]:
        yield from _under(f"Mixed_5{letter}", a)
    yield from _under("Mixed_6a", "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3")
    for letter in _LETTERS[: repeats[1]]:
        yield from _under(f"Mixed_6{letter}", b)
    yield from _under("Mixed_7a", "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4")
    for letter in _LETTERS[: repeats[2]]:
        yield from _under(f"Mixed_7{letter}", c)
    yield "fc"


TIMM_NAMES: Mapping[str, Callable[[Sequence[int]], Iterator[str]]] = {
    "inception_resnet_v2_released": _inception_resnet_v2,
    "inception_v4": _inception_v4,
    "inception_v3": _inception_v3,
}
_TIMM_AUX = {"inception_v3": ("AuxLogits.conv0", "AuxLogits.conv1", "AuxLogits.fc")}


def timm_keys(model: Network) -> dict[str, str]:
    """timm's key for each of the model's tensors that timm's network has too. Raises ValueError where there is none."""
    config = model.config
    if config.name not in TIMM_NAMES:
        raise ValueError(f"timm has no {config.name}; it has {', '.join(TIMM_NAMES)}")
    if config.stem != "paper":
        raise ValueError(f"timm's {config.name} has the paper's stem, not the small-image stem")
    names = list(TIMM_NAMES[config.name](config.repeats or ()))
    keys: dict[str, str] = {}
    nodes = [node for name, part in model.parts() if name != "aux head" for node in _nodes(part)]
    if model.aux_head is not None:
        nodes += _nodes(model.aux_head)
        names += _TIMM_AUX.get(config.name, ("aux_head (timm has none)",) * 3)
    places = {module: place for place, module in model.named_modules()}
    for node, name in zip(nodes, names, strict=True):
        for key in node.state_dict():
            first, _, rest = key.partition(".")
            # A convolution's batch-norm is called bn there; a bare layer owns its tensors directly, here and there.
            keys[f"{places[node]}.{key}"] = f"{name}.bn.{rest}" if first == "norm" else f"{name}.{key}"
    return keys


def _nodes(part: nn.Module) -> list[nn.Module]:
    """The layers with weights: convolutions with their batch-norm, up-projections and classifiers."""
    if isinstance(part, ConvLayer | nn.Conv2d | nn.Linear):
        return [part]
    return [node for child in part.children() for node in _nodes(child)]


def load_timm_weights(model: Network, state_dict: Mapping[str, Tensor]) -> None:
    """Load the state dict of timm's network of the same architecture.

    Raises ValueError, and loads nothing, where a tensor is missing, left over or of another shape.
    """
    own_to_timm = timm_keys(model)
    timm_to_own = {timm: own for own, timm in own_to_timm.items()}
    _load(model, {timm_to_own.get(key, key): tensor for key, tensor in state_dict.items()}, own_to_timm)


def load_weights(model: Network, path: str | Path) -> None:
    """Load a local file with a state dict of this network or of timm's: safetensors, or torch's of tensors only.

    A checkpoint that holds the state dict as `model` or `state_dict` will do.

    Raises ValueError, and loads nothing, where the file is anything else or does not fit.
    """
    path = Path(path)
    state_dict = read_state_dict(path)
    try:
        own = model.state_dict().keys()
        if own.isdisjoint(state_dict) and model.config.name in TIMM_NAMES:
            load_timm_weights(model, state_dict)
        else:
            _load(model, state_dict, {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors without running any code that it may hold. Raises ValueError if it is none."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except pickle.UnpicklingError:
        raise ValueError(f"{path}: a pickle with more than tensors and plain values in it: refused") from None
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(f"{path}: not a file of tensors ({type(error).__name__}: {error})") from None
    for inner in ("model", "state_dict"):  # checkpoints of this harness and of timm
        if isinstance(content, dict) and isinstance(content.get(inner), dict):
            content = content[inner]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: not a state dict (a mapping of names to tensors)")
    return content


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _read_torch(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about pickles that it then refuses
        return torch.load(path, map_location="cpu", weights_only=True)


def _load(model: nn.Module, state_dict: Mapping[str, Tensor], shown: Mapping[str, str]) -> None:
    """Load a state dict with the model's own keys, if all of it fits. `shown`: the keys as the user knows them."""
    own = model.state_dict()
    missing = [shown.get(key, key) for key in own if key not in state_dict]
    surplus = [key for key in state_dict if key not in own]
    wrong = [
        f"{shown.get(key, key)} is {tuple(state_dict[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in own.items()
        if key in state_dict and state_dict[key].shape != tensor.shape
    ]
    problems = [
        f"{len(which)} {what}: {', '.join(which[:4])}{', ...' if len(which) > 4 else ''}"
        for what, which in (("missing", missing), ("left over", surplus), ("of another shape", wrong))
        if which
    ]
    if problems:
        raise ValueError(f"the weights do not fit this network; {'; '.join(problems)}")
    model.load_state_dict(dict(state_dict))
