"""What other packages call the tensors of the networks that they share with us.

A scheme names the modules; the layers inside follow from their places in ours, since the table lists branches in the
order of the released code.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from harness.models.layers import ConvLayer
from harness.models.network import Network
from harness.models.weights.keras import numbered

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class Names:
    """What a package calls a network's tensors, and what its files need not have."""

    source: str
    keys: Mapping[str, str]
    """The package's key, by ours."""
    absent: Mapping[str, float] = field(default_factory=dict)
    """What stands, everywhere in it, for a tensor of ours that a file lacks."""
    unread: tuple[str, ...] = ()
    """Beginnings of keys that may be left over: parts which our network was built without."""
    convert: Callable[[StateDict], StateDict] = dict
    """Brings the package's tensors to the keys above."""


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a package of torch networks names one's modules.

    `{i}`: a module's place in its stage, `{n}`: in the network, `{letter}`: b, c, ... by its place in the stage.
    """

    source: str
    stem: tuple[str, ...]
    """Of the modules that have weights, in order."""
    stages: tuple[str, str, str]
    reductions: tuple[str, str]
    last_block: str | None = None
    """Of the last stage's last block, where it is set apart."""
    last_layer: str = ""
    classifier: str
    aux_head: Mapping[str, str] = field(default_factory=dict)
    """Of the auxiliary head's layers, by ours."""
    spell: Callable[[str, str, Sequence[str]], str]
    """A layer's name in its module: from the package's name of the module, the layer's place there in ours, and the
    places of all layers of the module."""
    convert: Callable[[StateDict], StateDict] = dict

    def name(self, place: str, n: int) -> str | None:
        """The package's name of our n-th module, at this place; None if it has no such module."""
        part, *inner = place.split(".")
        if part == "stem":
            return self.stem[n]
        if part == "stages":
            stage, i = map(int, inner)
            return self.stages[stage].format(i=i, n=n, letter=string.ascii_lowercase[1:][i : i + 1])
        if part == "reductions":
            return self.reductions[int(inner[0])].format(n=n)
        if part == "aux_head":
            return self.aux_head.get(inner[0])
        return self.last_layer if part == "last_layer" else self.classifier


def _branches(module: str, place: str, places: Sequence[str]) -> str:
    """`branches.1.0` -> `branch1.0`."""
    return re.sub(r"^(branches\.)?(?=\d)", "branch", place).replace("up_projection", "conv2d")


def _inception_v4(module: str, place: str, places: Sequence[str]) -> str:
    """`1.0` -> `branch1.0`; in a branch that ends in a fork `1.0` -> `branch1_0`, `1.1.0` -> `branch1_1a`."""
    if len(places) == 1:  # beside a pool
        return "conv"
    branch, *path = place.split(".")
    if any(each.startswith(f"{branch}.") and each.count(".") == 2 for each in places):
        return f"branch{branch}_{_number(path, first=0)}"
    return ".".join((f"branch{branch}", *path))


_V3_BRANCHES: Mapping[str, Sequence[str]] = {
    "Mixed_5": ("1x1", "5x5", "3x3dbl", "_pool"),
    "Mixed_6a": ("3x3", "3x3dbl"),
    "Mixed_6": ("1x1", "7x7", "7x7dbl", "_pool"),
    "Mixed_7a": ("3x3", "7x7x3"),
    "Mixed_7": ("1x1", "3x3", "3x3dbl", "_pool"),
}


def _inception_v3(module: str, place: str, places: Sequence[str]) -> str:
    """`0` -> `branch1x1`, `1.0` -> `branch5x5_1`, and of a fork `1.1.0` -> `branch3x3_2a`."""
    branch, *path = place.split(".")
    kinds = _V3_BRANCHES.get(module) or _V3_BRANCHES[module[:-1]]
    alone = sum(each.split(".")[0] == branch for each in places) == 1
    return f"branch{kinds[int(branch)]}" + ("" if alone else f"_{_number(path, first=1)}")


def _number(path: Sequence[str], first: int) -> str:
    """A layer's number in its branch, with a letter if it is one of a fork: (`1`, `0`) -> `1a`."""
    layer, *fork = (int(each) for each in path)
    return str(first + layer) + "".join(string.ascii_lowercase[each] for each in fork)


FACENET_EPS = 1e-3
"""Batch-norm's epsilon in facenet-pytorch's head."""


def _fold_bottleneck(state_dict: StateDict) -> StateDict:
    """facenet's head as one linear layer: a bottleneck without activation, its batch-norm, and the logits if there.

    That is what they are in evaluation, by the running statistics. Without logits the embedding comes out, before it is
    brought to unit length.
    """
    head = ("last_linear.weight", *(f"last_bn.{key}" for key in ("weight", "bias", "running_mean", "running_var")))
    if not all(key in state_dict for key in head):
        return state_dict
    try:
        weight, gamma, beta, mean, variance = (state_dict[key].double() for key in head)
        factor = gamma / (variance + FACENET_EPS).sqrt()
        weight, bias = factor[:, None] * weight, beta - factor * mean
        if "logits.weight" in state_dict and "logits.bias" in state_dict:
            logits = state_dict["logits.weight"].double()
            weight, bias = logits @ weight, logits @ bias + state_dict["logits.bias"].double()
    except RuntimeError:  # of other shapes: reported by name
        return state_dict
    trunk = {key: tensor for key, tensor in state_dict.items() if not key.startswith(("last_", "logits."))}
    return trunk | {"classifier.weight": weight, "classifier.bias": bias}


_V2_TIMM = Scheme(
    source="timm",
    stem=("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a", "mixed_5b"),
    stages=("repeat.{i}", "repeat_1.{i}", "repeat_2.{i}"),
    reductions=("mixed_6a", "mixed_7a"),
    last_block="block8",
    last_layer="conv2d_7b",
    classifier="classif",
    spell=_branches,
)
_V3_TORCHVISION = Scheme(
    source="torchvision and timm",
    stem=("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    stages=("Mixed_5{letter}", "Mixed_6{letter}", "Mixed_7{letter}"),
    reductions=("Mixed_6a", "Mixed_7a"),
    classifier="fc",
    aux_head={"reduce": "AuxLogits.conv0", "whole_map": "AuxLogits.conv1", "classifier": "AuxLogits.fc"},
    spell=_inception_v3,
)
SCHEMES: Mapping[str, Sequence[Scheme]] = {
    "inception_resnet_v1_released": (
        Scheme(
            source="facenet-pytorch",
            stem=("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a", "conv2d_4b"),
            stages=("repeat_1.{i}", "repeat_2.{i}", "repeat_3.{i}"),
            reductions=("mixed_6a", "mixed_7a"),
            last_block="block8",
            classifier="classifier",
            spell=_branches,
            convert=_fold_bottleneck,
        ),
    ),
    "inception_resnet_v2_released": (
        _V2_TIMM,
        replace(_V2_TIMM, source="Cadene's pretrainedmodels", classifier="last_linear"),
    ),
    "inception_v4": (
        Scheme(
            source="timm and Cadene's pretrainedmodels",
            stem=tuple(f"features.{n}" for n in range(6)),
            stages=("features.{n}", "features.{n}", "features.{n}"),
            reductions=("features.{n}", "features.{n}"),
            classifier="last_linear",
            spell=_inception_v4,
        ),
    ),
    "inception_v3": (
        _V3_TORCHVISION,
        replace(_V3_TORCHVISION, source="Cadene's pretrainedmodels", classifier="last_linear"),
    ),
}
KERAS = "inception_resnet_v2_released"
"""The network that Keras has too."""
KERAS_BLOCKS = ("block35", "block17", "block8")
"""Its names of the three stages' blocks."""
KERAS_LINEAR = {"weight": "kernel", "bias": "bias"}
KERAS_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def known_names(model: Network) -> list[Names]:
    """Every way in which a file may name this network's tensors, our own first."""
    # Batch-norm's count of batches is lacking in old and foreign files, and nothing is computed from it.
    uncounted = {key: 0.0 for key in model.state_dict() if key.endswith("num_batches_tracked")}
    known = [Names("this harness", {key: key for key in model.state_dict()}, uncounted, ("aux_head.",))]
    if model.config.stem == "paper":  # no other package has the small-image stem
        for scheme in SCHEMES.get(model.config.name, ()):
            known.append(Names(scheme.source, _scheme_keys(model, scheme), uncounted, ("AuxLogits.",), scheme.convert))
        if model.config.name == KERAS:
            # TF-slim's batch-norm, which Keras took over, has no trained scale: its scale is 1.
            unscaled = {key: 1.0 for key in model.state_dict() if key.endswith("norm.weight")}
            known.append(Names("Keras", _keras_keys(model), uncounted | unscaled))
    return known


def _scheme_keys(model: Network, scheme: Scheme) -> dict[str, str]:
    keys: dict[str, str] = {}
    modules = _modules(model)
    last_stage = [place for place in modules if place.startswith(f"stages.{len(scheme.stages) - 1}.")]
    for n, (place, module) in enumerate(modules.items()):
        name = scheme.last_block if place in last_stage[-1:] and scheme.last_block else scheme.name(place, n)
        if name is None:
            continue
        layers = _layers(module)
        for inner, layer in layers.items():
            theirs = f"{name}.{scheme.spell(name, inner, list(layers))}" if inner else name
            for key in layer.state_dict():
                # A convolution's batch-norm is called bn there; a bare layer owns its tensors directly, here and there.
                keys[f"{_join(place, inner)}.{key}"] = f"{theirs}.{re.sub('^norm', 'bn', key)}"
    return keys


def _keras_keys(model: Network) -> dict[str, str]:
    """Keras numbers convolutions and batch-norms in the order in which they are made, which is that of our table."""
    keys: dict[str, str] = {}
    numbers = itertools.count()
    for place, module in _modules(model).items():
        for inner, layer in _layers(module).items():
            if place.startswith("aux_head"):
                continue
            conv, norm = "predictions", ""
            if place == "last_layer":
                conv, norm = "conv_7b", "conv_7b_bn"
            elif isinstance(layer, ConvLayer):
                number = next(numbers)
                conv, norm = numbered("conv2d", number), numbered("batch_normalization", number)
            elif inner == "up_projection":
                _, stage, i = place.split(".")
                conv = f"{KERAS_BLOCKS[int(stage)]}_{int(i) + 1}_conv"
            for key in layer.state_dict():
                of, _, variable = key.rpartition(".")
                theirs = KERAS_NORM.get(variable) if of == "norm" else KERAS_LINEAR[variable]
                if theirs:
                    keys[f"{_join(place, inner)}.{key}"] = f"{norm if of == 'norm' else conv}.{theirs}"
    return keys


def _modules(model: Network) -> dict[str, nn.Module]:
    """The modules with weights by their place, in the order in which an image passes them."""
    modules = _placed("stem", model.stem)
    for index, stage in enumerate(model.stages):
        if index > 0:
            modules[f"reductions.{index - 1}"] = model.reductions[index - 1]
        modules |= _placed(f"stages.{index}", stage)
    modules |= {"last_layer": model.last_layer, "classifier": model.classifier}
    if model.aux_head is not None:
        modules |= _placed("aux_head", model.aux_head)
    return {place: module for place, module in modules.items() if _layers(module)}


def _placed(place: str, parent: nn.Module) -> dict[str, nn.Module]:
    return {f"{place}.{name}": module for name, module in parent.named_children()}


def _layers(module: nn.Module, place: str = "") -> dict[str, nn.Module]:
    """The layers with weights by their place in the module: convolutions with their batch-norm, bare linear ones."""
    if isinstance(module, ConvLayer | nn.Conv2d | nn.Linear):
        return {place: module}
    inner = (_layers(child, _join(place, name)) for name, child in module.named_children())
    return {key: layer for layers in inner for key, layer in layers.items()}


def _join(place: str, inner: str) -> str:
    return ".".join(filter(None, (place, inner)))
