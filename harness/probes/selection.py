"""From a preset, pattern or predicate to the points that are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from torch import nn

from harness.patterns import matcher, near
from harness.probes.functional import functional_relus
from harness.probes.points import Point

Preset = Literal["prepool", "blocks", "full"]
"""`prepool`: what enters global average pooling. `blocks`: that, every residual sum with what goes in and comes out,
or, in a network without residual sums, every module's output, and the parameters of up-projections. `full`: that,
every activation, and all parameters."""
PRESETS: tuple[str, ...] = get_args(Preset)
ModulePredicate = Callable[[str, nn.Module], bool]
Where = str | ModulePredicate | Iterable[str]

_SMOOTH = (nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Softplus)
_SMOOTH_NAMES = re.compile("gelu|silu|swish|mish", re.IGNORECASE)
"""Activations that hardly ever give an exact zero, and how other packages' classes of them are called."""
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, *_SMOOTH)
_PASSING = (
    nn.Identity, nn.Flatten, nn.modules.dropout._DropoutNd,
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
)  # fmt: skip
"""Layers that make no exact zeros of their own."""
_POOLS = ("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "GlobalAveragePool", "SelectAdaptivePool2d")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Selection:
    """What is read: points in the order of the modules, parameters by their labels, and what could not be found.

    parameters: full name -> label in metric names; norms: names of batch-norms whose scale and shift are read.
    up_projections: of residual sums, by label, `b03/up_projection`.
    """

    points: list[Point] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    norms: list[str] = field(default_factory=list)
    up_projections: dict[str, nn.Module] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def is_residual_sum(name: str, module: nn.Module) -> bool:
    """Whether a module is a residual sum by the name of its class, `ResidualSum`."""
    return type(module).__name__ == "ResidualSum"


def select(model: nn.Module, where: Where, sums: ModulePredicate = is_residual_sum) -> Selection:
    """The points that `where` names.

    where: a preset (see `Preset`), a glob pattern over module names (see `harness.patterns`), a predicate over
        (name, module), or a list of presets and patterns. A pattern reads a module's output, and with `:input` at its
        end its first input. Patterns find ReLUs that are function calls under the name `OWNER.relu()`.
    sums: which modules are residual sums, called with (skip, branch).
    Raises ValueError for a pattern or predicate that matches nothing, and for a preset that the model has no place for.
    """
    selection = _select(model, where, sums)
    leaves = _leaves(model)
    selection.points = [replace(point, smooth=_is_smooth(leaves, point)) for point in selection.points]
    return selection


def _select(model: nn.Module, where: Where, sums: ModulePredicate) -> Selection:
    selection = Selection()
    if callable(where):
        matches = [(name, module) for name, module in model.named_modules() if where(name, module)]
        if not matches:
            raise ValueError(f"the predicate matches none of the {len(dict(model.named_modules()))} modules")
        selection.points += [_layer(name, name, module) for name, module in matches]
        return selection
    wanted = [where] if isinstance(where, str) else list(where)
    if not wanted:
        raise ValueError(f"where is empty; expected a pattern over module names or one of {', '.join(PRESETS)}")
    for item in wanted:
        if item in PRESETS:
            _add_preset(selection, model, item, sums)
        else:
            _add_pattern(selection, model, item)
    selection.points = list({(point.name, point.side): point for point in selection.points}.values())
    return selection


def select_parameters(model: nn.Module, pattern: str) -> dict[str, str]:
    """Trained parameters whose names match a pattern, name -> label. Raises ValueError if none does."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    matches = list(filter(matcher(pattern), names))
    if not matches:
        raise ValueError(f"parameters={pattern!r} matches none of the {len(names)} trained ones{near(pattern, names)}")
    return {name: name for name in matches}


def _is_smooth(leaves: Sequence[nn.Module], point: Point) -> bool:
    """Whether an activation without exact zeros comes last before what is read, in the order of registration.

    leaves: the modules of the model that are made of none.
    """
    if point.side == "sum" or ".relu()" in point.name:
        return False
    own = _leaves(point.module)
    end = leaves.index(own[-1]) + 1 if point.side == "output" else leaves.index(own[0])
    last = next((leaf for leaf in reversed(leaves[:end]) if not isinstance(leaf, _PASSING)), None)
    return last is not None and (isinstance(last, _SMOOTH) or bool(_SMOOTH_NAMES.search(type(last).__name__)))


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [each for each in module.modules() if not any(True for _ in each.children())]


def _layer(label: str, name: str, module: nn.Module) -> Point:
    return Point(f"layer/{label or type(module).__name__}", name, module, "output", asked_for=True)


# -- patterns ----------------------------------------------------------------------------------------------------------


def _add_pattern(selection: Selection, model: nn.Module, pattern: str) -> None:
    base, _, side = pattern.partition(":")
    if side not in ("", "input"):
        raise ValueError(f"where={pattern!r}: after the colon only `input` is known, not {side!r}")
    matches = matcher(base)
    modules = {name: module for name, module in model.named_modules() if name}
    points = [_layer(name, name, module) for name, module in modules.items() if matches(name)]
    if side:
        points = [replace(point, name=f"{point.name}:input", side="input") for point in points]
    else:
        functions, words = _search_functions(model, matches)
        points += functions
        selection.warnings += words
    if not points:
        words = [f"; {word}" for word in selection.warnings]
        hint = "" if pattern != base or "*" in pattern else f"; presets are {', '.join(PRESETS)}"
        close = near(base, list(modules))
        raise ValueError(f"where={pattern!r} matches none of the {len(modules)} modules{close}{hint}{''.join(words)}")
    selection.points += points


def _search_functions(model: nn.Module, matches: Callable[[str], bool]) -> tuple[list[Point], list[str]]:
    """ReLU calls that a pattern matches; only code is traced in which one could."""
    found: list[Point] = []
    words: list[str] = []
    for name, module in model.named_modules():
        labels = [f"{name}.relu(){suffix}".lstrip(".") for suffix in ("", "#2")]
        if any(map(matches, labels)):
            points, word = functional_relus(name, module)
            found += [replace(each, name=f"layer/{each.name}", asked_for=True) for each in points if matches(each.name)]
            words += [word] if word else []
    return found, words


# -- presets -----------------------------------------------------------------------------------------------------------


def _add_preset(selection: Selection, model: nn.Module, preset: str, sums: ModulePredicate) -> None:
    pool = _pool(model)
    if preset == "prepool":
        if pool is None:
            last = [name for name, module in model.named_modules() if not list(module.children())][-3:]
            raise ValueError(
                f"preset 'prepool': no global average pooling among the modules ({', '.join(_POOLS)}); "
                f"name what feeds it, e.g. where={last[0]!r}; the last modules are {', '.join(last)}"
            )
        selection.points.append(pool)
        return
    residual = [(name, module) for name, module in model.named_modules() if sums(name, module)]
    selection.points += _sum_points(model, residual) if residual else _module_outputs(model)
    if preset == "full":
        functions, words = _search_functions(model, lambda name: True)
        modules = [_layer(name, name, module) for name, module in model.named_modules() if _is_activation(module)]
        selection.points += [replace(each, asked_for=False) for each in modules + functions]
        selection.notes += words
    if pool is not None:
        selection.points.append(pool)
    if not selection.points:
        raise ValueError(
            f"preset {preset!r}: the model has no residual sums, no modules made of modules and no global average "
            "pooling; name layers by a pattern, e.g. where='**.relu*'"
        )
    labels: dict[str, str] = {}
    for label, name, module in _up_projections(model, residual):
        selection.up_projections[label] = module
        trained_here = [kind for kind, each in module.named_parameters(recurse=False) if each.requires_grad]
        labels |= {f"{name}.{kind}": f"{label}.{kind}" for kind in trained_here}
    if preset == "full":
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        selection.parameters |= {name: labels.get(name, name) for name in trained}
        selection.norms += [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None
        ]
    else:
        selection.parameters |= labels


def _is_activation(module: nn.Module) -> bool:
    return isinstance(module, _ACTIVATIONS)


def _pool(model: nn.Module) -> Point | None:
    """The input of the last global average pooling, of the outermost module where one wraps another."""
    pools = [
        (name, module)
        for name, module in model.named_modules()
        if type(module).__name__ in _POOLS and getattr(module, "output_size", 1) in (1, (1, 1), (1,))
    ]
    names = {name for name, _ in pools}
    outer = [each for each in pools if each[0].rpartition(".")[0] not in names]
    return Point("prepool", *outer[-1], "input") if outer else None


def _block(index: int, count: int) -> str:
    return f"block/b{index + 1:0{max(2, len(str(count)))}d}"


def _sum_points(model: nn.Module, residual: list[tuple[str, nn.Module]]) -> Iterator[Point]:
    """Every residual sum, and the output of the module that it stands in, which is what its ReLU leaves."""
    last_in = {name.rpartition(".")[0]: name for name, _ in residual}
    for index, (name, module) in enumerate(residual):
        label = _block(index, len(residual))
        yield Point(label, name, module, "sum")
        parent = name.rpartition(".")[0]
        if parent and last_in[parent] == name:
            yield Point(f"{label}/output", parent, model.get_submodule(parent), "output")


def _module_outputs(model: nn.Module) -> list[Point]:
    """The output of every module that is made of modules and is no mere list of them, the outermost of nested ones."""

    def walk(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        for child_name, child in module.named_children():
            full = f"{name}.{child_name}".lstrip(".")
            if type(child) in _CONTAINERS:
                yield from walk(full, child)
            elif any(True for _ in child.children()):
                yield full, child

    found = list(walk("", model))
    while len(found) == 1:  # a wrapper around the network
        inner = list(walk(*found[0]))
        if not inner:
            break
        found = inner
    return [
        Point(f"{_block(index, len(found))}/output", name, module, "output")
        for index, (name, module) in enumerate(found)
    ]


def _up_projections(model: nn.Module, residual: list[tuple[str, nn.Module]]) -> Iterator[tuple[str, str, nn.Module]]:
    """The up-projection of every residual sum that has one: a label like `b03/up_projection`, its name, and itself.

    It is the sum's sibling of that name, else the last convolution or linear layer that is registered before the sum.
    """
    for index, (name, _) in enumerate(residual):
        parent, _, own = name.rpartition(".")
        found: tuple[str, nn.Module] | None = None
        for child_name, child in model.get_submodule(parent).named_children():
            if child_name == own:
                break
            for inner, module in child.named_modules(prefix=f"{parent}.{child_name}".lstrip(".")):
                if isinstance(module, _LINEAR):
                    found = inner, module
            if child_name == "up_projection":
                break
        if found is not None:
            yield f"{_block(index, len(residual)).removeprefix('block/')}/up_projection", *found
