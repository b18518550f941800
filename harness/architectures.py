"""The one table of architectures, in the notation of the paper's figures, and the arithmetic of their widths.

Figures are those of arXiv:1602.07261 unless another paper is named. Nothing here needs torch: a configuration is
resolved and checked from this table alone, and `harness.models` builds the modules from it.

Notation, as in the figures:
    `3x3 32/2 V`         convolution: kernel height x width, filters, stride (if not 1), V = valid padding (else same)
    `maxpool/2 V`        3x3 max pooling
    `avgpool`            3x3 average pooling, stride 1, same; the mean leaves the padding out (`avgpool+pad`: counts it)
    `a, b`               b after a
    `a ; b`              branches on the same input, concatenated in this order
    `{a | b}`            two convolutions on the same input that end a branch, both concatenated
    `~` before a branch  the figure has every kernel of the branch transposed (1x7 for 7x1), see `figure_order`
Every convolution is followed by batch-norm and the non-linearity, except the last of a residual branch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args

ArchitectureName = Literal[
    "inception_resnet_v1",
    "inception_resnet_v2",
    "inception_resnet_v1_released",
    "inception_resnet_v2_released",
    "inception_v4",
    "inception_v3",
    "resnet20_cifar",
    "resnet32_cifar",
    "resnet44_cifar",
    "resnet56_cifar",
    "resnet110_cifar",
]
DeathEvent = Literal["died", "collapsed"]


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution of the table."""

    kernel: tuple[int, int]
    filters: int
    stride: int = 1
    valid: bool = False

    def __str__(self) -> str:
        stride = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.kernel[0]}x{self.kernel[1]} {self.filters}{stride}{' V' if self.valid else ''}"


@dataclass(frozen=True, slots=True)
class Pool:
    """A 3x3 pooling of the table."""

    kind: Literal["max", "average"]
    stride: int = 1
    valid: bool = False
    counts_padding: bool = False


@dataclass(frozen=True, slots=True)
class Fork:
    """Convolutions on the same input whose outputs are concatenated; they end a branch."""

    convs: tuple[Conv, ...]


Layer = Conv | Pool | Fork
Branch = tuple[Layer, ...]
Module = tuple[Branch, ...]
"""Branches on one input, concatenated."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Modules on one grid size. Beyond the listed ones the last is repeated."""

    modules: tuple[str, ...]
    repeats: int
    residual_scale: float = 1.0

    def module(self, index: int) -> str:
        """The module at this place of the stage."""
        return self.modules[min(index, len(self.modules) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A row of the table."""

    source: str
    stem: tuple[str, ...]
    """Modules before the first stage."""
    kind: Literal["inception_resnet", "inception", "resnet"]
    """What a module's branches become: a residual branch ended by the linear 1x1 up-projection to the width of the
    input; the concatenation itself; or a residual branch whose last convolution (with batch-norm) is linear."""
    stages: tuple[Stage, ...]
    reductions: tuple[str, ...] = ()
    """Modules between the stages; none where a stage's first module reduces."""
    last_layer: str | None = None
    """Module between the last stage and the pool."""
    last_block: float | None = None
    """Residual scale of the last stage's last block, where that block is set apart and has no ReLU."""
    init: str
    dropout_keep: float = 0.8
    aux_head: bool = False
    """Whether the released code has an auxiliary classifier."""


V1_STEM = (  # Fig. 14
    "3x3 32/2 V",
    "3x3 32 V",
    "3x3 64",
    "maxpool/2 V",
    "1x1 80",
    "3x3 192 V",
    "3x3 256/2 V",
)
V4_STEM = (  # Fig. 3, the strides of its last module added (ARCHITECTURES 1.6)
    "3x3 32/2 V",
    "3x3 32 V",
    "3x3 64",
    "maxpool/2 V ; 3x3 96/2 V",
    "1x1 64, 3x3 96 V ; ~1x1 64, 1x7 64, 7x1 64, 3x3 96 V",
    "3x3 192/2 V ; maxpool/2 V",
)
V3_STEM = ("3x3 32/2 V", "3x3 32 V", "3x3 64", "maxpool/2 V", "1x1 80", "3x3 192 V", "maxpool/2 V")
# Released v2: v3's stem and Mixed_5b.
V2_RELEASED_STEM = (*V3_STEM, "1x1 96 ; 1x1 48, 5x5 64 ; 1x1 64, 3x3 96, 3x3 96 ; avgpool, 1x1 64")

V1_A = "1x1 32 ; 1x1 32, 3x3 32 ; 1x1 32, 3x3 32, 3x3 32"  # Fig. 10
V1_B = "1x1 128 ; 1x1 128, 1x7 128, 7x1 128"  # Fig. 11
V1_C = "1x1 192 ; 1x1 192, 1x3 192, 3x1 192"  # Fig. 13
V1_REDUCTIONS = (
    "3x3 384/2 V ; 1x1 192, 3x3 192, 3x3 256/2 V ; maxpool/2 V",  # Fig. 7: n ; k, l, m of Table 1
    "1x1 256, 3x3 384/2 V ; 1x1 256, 3x3 256/2 V ; 1x1 256, 3x3 256, 3x3 256/2 V ; maxpool/2 V",  # Fig. 12
)
V2_A = "1x1 32 ; 1x1 32, 3x3 32 ; 1x1 32, 3x3 48, 3x3 64"  # Fig. 16
V2_B = "1x1 192 ; 1x1 128, 1x7 160, 7x1 192"  # Fig. 17
V2_C = "1x1 192 ; 1x1 192, 1x3 224, 3x1 256"  # Fig. 19
V2_REDUCTIONS = (
    "3x3 384/2 V ; 1x1 256, 3x3 256, 3x3 384/2 V ; maxpool/2 V",  # Fig. 7: n ; k, l, m of Table 1
    "1x1 256, 3x3 384/2 V ; 1x1 256, 3x3 288/2 V ; 1x1 256, 3x3 288, 3x3 320/2 V ; maxpool/2 V",  # Fig. 18
)


def _v3_a(pool: int) -> str:
    return f"1x1 64 ; 1x1 48, 5x5 64 ; 1x1 64, 3x3 96, 3x3 96 ; avgpool+pad, 1x1 {pool}"


def _v3_b(c: int) -> str:
    return f"1x1 192 ; 1x1 {c}, 1x7 {c}, 7x1 192 ; 1x1 {c}, 7x1 {c}, 1x7 {c}, 7x1 {c}, 1x7 192 ; avgpool+pad, 1x1 192"


def _cifar(depth: int) -> Architecture:
    """He et al., arXiv:1512.03385, section 4.2: depth 6n + 2."""
    n = (depth - 2) // 6
    return Architecture(
        source="arXiv:1512.03385, section 4.2",
        stem=("3x3 16",),
        kind="resnet",
        stages=(
            Stage(("3x3 16, 3x3 16",), n),
            Stage(("3x3 32/2, 3x3 32", "3x3 32, 3x3 32"), n),
            Stage(("3x3 64/2, 3x3 64", "3x3 64, 3x3 64"), n),
        ),
        init="he",
        dropout_keep=1.0,
    )


# Branches are listed in the order in which the released code concatenates them.
ARCHITECTURES: Mapping[str, Architecture] = {
    "inception_resnet_v1": Architecture(
        source="figs. 7, 10-15",
        stem=V1_STEM,
        kind="inception_resnet",
        stages=(Stage((V1_A,), 5), Stage((V1_B,), 10), Stage((V1_C,), 5)),
        reductions=V1_REDUCTIONS,
        init="xavier_uniform",
    ),
    "inception_resnet_v2": Architecture(
        source="figs. 3, 7, 15-19",
        stem=V4_STEM,
        kind="inception_resnet",
        stages=(Stage((V2_A,), 5), Stage((V2_B,), 10), Stage((V2_C,), 5)),
        reductions=V2_REDUCTIONS,
        init="xavier_uniform",
    ),
    "inception_resnet_v1_released": Architecture(
        source="facenet: figs. 7, 10-14 and a last block",
        stem=V1_STEM,
        kind="inception_resnet",
        stages=(Stage((V1_A,), 5, 0.17), Stage((V1_B,), 10, 0.10), Stage((V1_C,), 6, 0.20)),
        reductions=V1_REDUCTIONS,
        last_block=1.0,
        init="trunc_normal",
    ),
    "inception_resnet_v2_released": Architecture(
        source="TF-slim, timm: figs. 7, 16-19, another stem",
        stem=V2_RELEASED_STEM,
        kind="inception_resnet",
        stages=(Stage((V2_A,), 10, 0.17), Stage((V2_B,), 20, 0.10), Stage((V2_C,), 10, 0.20)),
        reductions=V2_REDUCTIONS,
        last_layer="1x1 1536",
        last_block=1.0,
        init="xavier_uniform",
        aux_head=True,
    ),
    "inception_v4": Architecture(
        source="figs. 3-9",
        stem=V4_STEM,
        kind="inception",
        stages=(
            Stage(("1x1 96 ; 1x1 64, 3x3 96 ; 1x1 64, 3x3 96, 3x3 96 ; avgpool, 1x1 96",), 4),  # Fig. 4
            Stage(  # Fig. 5, its second 1x7 of the third branch read as 7x1 (ARCHITECTURES 1.6)
                (
                    "1x1 384 ; 1x1 192, 1x7 224, 7x1 256 ; "
                    "~1x1 192, 7x1 192, 1x7 224, 7x1 224, 1x7 256 ; avgpool, 1x1 128",
                ),
                7,
            ),
            Stage(  # Fig. 6
                (
                    "1x1 256 ; 1x1 384, {1x3 256 | 3x1 256} ; "
                    "~1x1 384, 3x1 448, 1x3 512, {1x3 256 | 3x1 256} ; avgpool, 1x1 256",
                ),
                3,
            ),
        ),
        reductions=(
            "3x3 384/2 V ; 1x1 192, 3x3 224, 3x3 256/2 V ; maxpool/2 V",  # Fig. 7: n ; k, l, m of Table 1
            "1x1 192, 3x3 192/2 V ; 1x1 256, 1x7 256, 7x1 320, 3x3 320/2 V ; maxpool/2 V",  # Fig. 8
        ),
        init="variance_scaling",
        aux_head=True,
    ),
    "inception_v3": Architecture(
        source="arXiv:1512.00567 as released (torchvision, timm)",
        stem=V3_STEM,
        kind="inception",
        stages=(
            Stage((_v3_a(32), _v3_a(64)), 3),
            Stage((_v3_b(128), _v3_b(160), _v3_b(160), _v3_b(192)), 4),
            Stage(
                (
                    "1x1 320 ; 1x1 384, {1x3 384 | 3x1 384} ; "
                    "1x1 448, 3x3 384, {1x3 384 | 3x1 384} ; avgpool+pad, 1x1 192",
                ),
                2,
            ),
        ),
        reductions=(
            "3x3 384/2 V ; 1x1 64, 3x3 96, 3x3 96/2 V ; maxpool/2 V",
            "1x1 192, 3x3 320/2 V ; 1x1 192, 1x7 192, 7x1 192, 3x3 192/2 V ; maxpool/2 V",
        ),
        init="trunc_normal",
        aux_head=True,
    ),
    "resnet20_cifar": _cifar(20),
    "resnet32_cifar": _cifar(32),
    "resnet44_cifar": _cifar(44),
    "resnet56_cifar": _cifar(56),
    "resnet110_cifar": _cifar(110),
}
assert tuple(ARCHITECTURES) == get_args(ArchitectureName)

SMALL_STEM_FIRST = 64
"""Filters of the small-image stem's first layer; the second has the width of the trunk that the paper's stem feeds."""
AUX_STAGE = 1
"""Index of the stage whose output the auxiliary head reads."""
AUX_POOL = 5
"""Kernel of the auxiliary head's average pooling (stride 3, valid): the smallest grid that it can read."""
AUX_FILTERS = (128, 768)
"""Filters of the auxiliary head's two convolutions."""
AUX_LOSS_WEIGHT = 0.4
"""Factor on the auxiliary head's loss in training, as released."""


# The notation, read.

_CONV = re.compile(r"(\d+)x(\d+) (\d+)(?:/(\d))?( V)?")
_POOL = re.compile(r"(max|avg)pool(\+pad)?(?:/(\d))?( V)?")


def _conv(text: str, transposed: bool) -> Conv:
    match = _CONV.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a layer of the table: {text!r}")
    height, width, filters, stride, valid = match.groups()
    kernel = (int(width), int(height)) if transposed else (int(height), int(width))
    return Conv(kernel, int(filters), int(stride or 1), valid is not None)


def _layer(text: str, transposed: bool) -> Layer:
    text = text.strip()
    if text.startswith("{") and text.endswith("}"):
        return Fork(tuple(_conv(conv, transposed) for conv in text[1:-1].split("|")))
    if match := _POOL.fullmatch(text):
        kind, counts_padding, stride, valid = match.groups()
        return Pool("max" if kind == "max" else "average", int(stride or 1), valid is not None, bool(counts_padding))
    return _conv(text, transposed)


@cache
def parse(text: str, figure_order: bool = False) -> Module:
    """Read a module of the table."""
    branches = []
    for branch in text.split(";"):
        marked = branch.strip().startswith("~")
        layers = branch.strip().removeprefix("~").split(",")
        branches.append(tuple(_layer(layer, marked and figure_order) for layer in layers))
    return tuple(branches)


def convs(module: Module) -> Iterator[Conv]:
    """Every convolution of a module, in the order of the table."""
    for branch in module:
        for layer in branch:
            if isinstance(layer, Conv):
                yield layer
            elif isinstance(layer, Fork):
                yield from layer.convs


# Widths.


def scale_filters(filters: int, factor: float) -> int:
    """A filter count times a factor, rounded to the nearest whole number, halves upwards: monotone in both."""
    return math.floor(filters * factor + 0.5)


def _scale_module(module: Module, factor: float, last_factor: float | None = None) -> Module:
    """Scale the filters of every layer; those that end a branch by `last_factor`, if given."""

    def scaled(layer: Layer, by: float) -> Layer:
        if isinstance(layer, Conv):
            return replace(layer, filters=scale_filters(layer.filters, by))
        if isinstance(layer, Fork):
            return Fork(tuple(replace(conv, filters=scale_filters(conv.filters, by)) for conv in layer.convs))
        return layer

    last = factor if last_factor is None else last_factor
    return tuple((*(scaled(layer, factor) for layer in branch[:-1]), scaled(branch[-1], last)) for branch in module)


def out_width(module: Module, in_width: int) -> int:
    """Channels of a module's concatenated output, for the channels of its input (a pooling branch passes them on)."""
    total = 0
    for branch in module:
        width = in_width
        for layer in branch:
            if isinstance(layer, Conv):
                width = layer.filters
            elif isinstance(layer, Fork):
                width = sum(conv.filters for conv in layer.convs)
        total += width
    return total


def stride(module: Module) -> int:
    """By how much a module divides the grid."""
    return math.prod(layer.stride for layer in module[0] if not isinstance(layer, Fork))


def _same_padding(module: Module) -> Module:
    return tuple(
        tuple(layer if isinstance(layer, Fork) else replace(layer, valid=False) for layer in branch)
        for branch in module
    )


def out_grid(module: Module, grid: int) -> int:
    """Height (and width) of a module's output for that of its input; below 1 where the input is too small."""
    for layer in module[0]:  # all branches of a module agree
        if not isinstance(layer, Fork):
            kernel = max(layer.kernel) if isinstance(layer, Conv) else 3
            grid = (grid - kernel) // layer.stride + 1 if layer.valid else -(-grid // layer.stride)
    return grid


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A row of the table with every filter count scaled: what `harness.models` builds, layer by layer."""

    architecture: Architecture
    stem: tuple[Module, ...]
    stages: tuple[tuple[Module, ...], ...]
    reductions: tuple[Module | None, ...]
    """What stands before the second, third, ... stage."""
    last_layer: Module | None

    def trunk_widths(self) -> tuple[int, ...]:
        """Channels that each stage puts out."""
        width = 0
        for module in self.stem:
            width = out_width(module, width)
        widths = []
        for reduction, stage in zip((None, *self.reductions), self.stages, strict=True):
            width = width if reduction is None else out_width(reduction, width)
            if self.architecture.kind != "inception_resnet":
                for module in stage:
                    width = out_width(module, width)
            widths.append(width)
        return tuple(widths)

    def grids(self, image_size: int) -> tuple[int, ...]:
        """Height (and width) of each stage's output for square images of this size; below 1: too small."""
        grid = image_size
        for module in self.stem:
            grid = out_grid(module, grid)
        grids = []
        for reduction, stage in zip((None, *self.reductions), self.stages, strict=True):
            grid = grid if reduction is None else out_grid(reduction, grid)
            if self.architecture.kind == "resnet" and stage:  # only the first module of a stage may reduce
                grid = out_grid(stage[0], grid)
            grids.append(grid)
        return tuple(grids)


def blueprint(name: str, axes: Mapping[str, Any]) -> Blueprint:
    """Scale a row of the table. `axes`: the resolved fields of ModelConfig that shape a network."""
    row = ARCHITECTURES[name]
    trunk = axes["width"] * axes["trunk_width"]
    inner = axes["width"] * axes["branch_width"]
    order = bool(axes["figure_order"])
    stem = tuple(_scale_module(parse(text, order), trunk) for text in row.stem)
    reductions = tuple(_scale_module(parse(text, order), trunk) for text in row.reductions)
    if axes["stem"] == "small":
        stem_width = 0
        for module in stem:
            stem_width = out_width(module, stem_width)
        first = Conv((3, 3), scale_filters(SMALL_STEM_FIRST, trunk), stride=2)
        stem = (((first,),), ((Conv((3, 3), stem_width, stride=2),),))
        # Same padding: a 4x4 grid becomes 2x2, and a 2x2 grid does not vanish.
        reductions = tuple(_same_padding(module) for module in reductions)
    ending = trunk if row.kind == "resnet" else inner  # a plain residual branch ends with the trunk's width
    stages = tuple(
        tuple(_scale_module(parse(stage.module(index), order), inner, ending) for index in range(repeats))
        for stage, repeats in zip(row.stages, axes["repeats"], strict=True)
    )
    return Blueprint(
        architecture=row,
        stem=stem,
        stages=stages,
        reductions=reductions or (None,) * (len(row.stages) - 1),
        last_layer=None if row.last_layer is None else _scale_module(parse(row.last_layer), trunk),
    )


@cache
def minimum_image_size(name: str, stem: str, aux_head: bool = False) -> int:
    """The smallest square image: the first stage sees more than one position, and every grid has at least one.

    The auxiliary head needs 5x5 positions after the second stage.
    """
    row = ARCHITECTURES[name]
    plan = blueprint(name, _default_shape(row) | {"stem": stem})
    size = 1
    while True:
        grids = plan.grids(size)
        if grids[0] > 1 and min(grids) >= 1 and (not aux_head or grids[AUX_STAGE] >= AUX_POOL):
            return size
        size += 1


def _default_shape(row: Architecture) -> dict[str, Any]:
    repeats = tuple(stage.repeats for stage in row.stages)
    return {"width": 1.0, "trunk_width": 1.0, "branch_width": 1.0, "figure_order": False, "repeats": repeats}


def residual_scales(name: str, axes: Mapping[str, Any]) -> tuple[tuple[float, ...], ...]:
    """Each block's residual scale, stage by stage; the initial ones if they are learned. Empty if there are none."""
    row = ARCHITECTURES[name]
    if row.kind == "inception":
        return ()
    scale, repeats = axes["residual_scale"], axes["repeats"]
    if scale == "learned":
        scale = axes["residual_scale_init"]
    if not isinstance(scale, tuple):
        return tuple((scale,) * count for count in repeats)
    per_block = [[value] * count for value, count in zip(scale, repeats, strict=False)]
    if row.last_block is not None and per_block[-1]:
        per_block[-1][-1] = scale[-1]
    return tuple(tuple(stage) for stage in per_block)


# The input of the pool decides which event is the death of a network (SCIENCE.md).


def pool_input(name: str, axes: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a ReLU feeds the pool, and whether a batch-norm stands just before that ReLU."""
    row = ARCHITECTURES[name]
    ends_with_sum = row.kind != "inception" and row.last_layer is None and axes["repeats"][-1] > 0
    relu = axes["activation"] == "relu" and not (ends_with_sum and row.last_block is not None)
    normed = axes["batch_norm"] in ("after_sum", "pre_pool") if ends_with_sum else axes["batch_norm"] != "none"
    return relu, relu and normed


def death_event(name: str, axes: Mapping[str, Any]) -> DeathEvent:
    """`collapsed` where no ReLU feeds the pool or a batch-norm stands just before that ReLU, else `died`."""
    relu, normed = pool_input(name, axes)
    return "died" if relu and not normed else "collapsed"


# Resolving a configuration.


@cache
def _defaults(name: str, stem: str) -> Mapping[str, Any]:
    """The optional fields that a network has, with the value that each takes when left out."""
    row = ARCHITECTURES[name]
    fields: dict[str, Any] = {
        "repeats": tuple(stage.repeats for stage in row.stages),
        "init": row.init,
        "dropout_keep": row.dropout_keep,
    }
    if row.kind != "inception":
        fields["residual_scale"] = tuple(stage.residual_scale for stage in row.stages)
    if row.kind == "inception_resnet":
        fields |= {"up_projection_bias": "on", "up_projection_init": "default"}
    texts = [text for stage in row.stages for text in stage.modules]
    if any("~" in text for text in (*texts, *(row.stem if stem == "paper" else ()))):
        fields["figure_order"] = False
    if row.aux_head:
        fields["aux_head"] = False
    return fields


_OPTIONAL = tuple(dict.fromkeys(field for name in ARCHITECTURES for field in _defaults(name, "paper")))


def _names_with(field: str) -> str:
    return ", ".join(name for name in ARCHITECTURES if field in _defaults(name, "paper"))


def resolve(name: str, image_size: int, axes: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Complete and check the fields of a ModelConfig.

    Returns the values of the fields that were left out and that this architecture has, with the one canonical form of
    what can be written in several ways; and the problems, as (field, message). A field that the architecture lacks
    keeps its default, so that equal networks have equal configurations.
    """
    row = ARCHITECTURES[name]
    stem = axes["stem"]
    if stem is None or row.kind == "resnet":
        fits = image_size >= minimum_image_size(name, "paper")
        stem = "paper" if fits or row.kind == "resnet" else "small"
    defaults = _defaults(name, stem)
    left_out = {field: value for field, value in defaults.items() if axes[field] is None}
    given = {**axes, **left_out, "stem": stem}
    if given["residual_scale"] == "learned" and given["residual_scale_init"] is None:
        given["residual_scale_init"] = 1.0
    if isinstance(given["residual_scale"], tuple):
        given["residual_scale"] = _canonical_scale(row, given["residual_scale"])
    if given["up_projection_init"] == 1.0:
        given["up_projection_init"] = "default"

    problems = [
        *_check_stem(name, row, stem, axes["stem"], image_size),
        *_check_lacking(name, stem, axes),
        *_check_stages(name, row, given),
        *_check_batch_norm(name, row, given),
        *_check_widths(name, row, stem, given),
    ]
    if given["residual_scale_init"] is not None and given["residual_scale"] != "learned":
        problems.append(("residual_scale_init", "only with residual_scale `learned`"))
    if given["aux_head"] and "aux_head" in defaults:
        minimum = minimum_image_size(name, stem, aux_head=True)
        if image_size < minimum:
            why = f"the auxiliary head of {name} needs images of at least {minimum}x{minimum}"
            problems.append(("aux_head", f"{why} with stem `{stem}`, not {image_size}x{image_size}"))
    return {field: value for field, value in given.items() if value != axes[field]}, problems


def _canonical_scale(row: Architecture, scales: tuple[float, ...]) -> float | tuple[float, ...]:
    """One form for equal scales: the last block's written out where it is set apart, one number if all are equal."""
    if row.last_block is not None and len(scales) == len(row.stages):
        scales = (*scales, row.last_block)
    complete = len(scales) == len(row.stages) + (row.last_block is not None)
    return scales[0] if complete and len(set(scales)) == 1 else scales


def _check_stem(
    name: str, row: Architecture, stem: str, asked: str | None, image_size: int
) -> Iterator[tuple[str, str]]:
    if asked not in (None, stem):
        yield "stem", f"{name} has one stem, which is one for small images: leave stem out"
    minimum = minimum_image_size(name, stem)
    if image_size < minimum:
        which = "the small-image stem" if stem == "small" else "the paper's stem"
        why = f"{which} of {name} needs images of at least {minimum}x{minimum}, not {image_size}x{image_size}"
        yield "stem", why


def _check_lacking(name: str, stem: str, axes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    has = _defaults(name, stem)
    for field in _OPTIONAL:
        if axes[field] is None or field in has:
            continue
        if field in _defaults(name, "paper"):
            yield field, f"{name} has no {field} with stem `{stem}`: figure and code differ in the paper's stem only"
        else:
            yield field, f"{name} has no {field}; those that have: {_names_with(field)}"


def _check_stages(name: str, row: Architecture, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    stages = len(row.stages)
    repeats, scale = given["repeats"], given["residual_scale"]
    if len(repeats) != stages:
        yield "repeats", f"{name} has {stages} stages: give {stages} whole numbers, not {len(repeats)}"
    elif row.kind == "resnet" and 0 in repeats[1:]:
        stage = repeats.index(0, 1) + 1
        yield "repeats", f"stage {stage} of {name} needs at least 1 module: its first one halves the grid"
    elif not any(repeats):
        yield "repeats", f"at least one stage of {name} needs a module"
    if row.kind != "inception" and isinstance(scale, tuple) and len(scale) != stages + (row.last_block is not None):
        last = ", and one more for the last block if wanted" if row.last_block is not None else ""
        yield "residual_scale", f"{name} has {stages} stages: give {stages} numbers{last}, not {len(scale)}"


def _check_batch_norm(name: str, row: Architecture, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    where, repeats = given["batch_norm"], given["repeats"]
    if where in ("branch_output", "after_sum") and row.kind == "inception":
        yield (
            "batch_norm",
            f"{name} has no residual branch, so no `{where}`; those that have: {_names_with_residuals()}",
        )
    elif where == "branch_output" and row.kind == "resnet":
        yield "batch_norm", f"every residual branch of {name} ends with a batch-norm already (`branch_output`)"
    elif where == "pre_pool" and (row.kind == "inception" or row.last_layer is not None):
        yield "batch_norm", f"the pre-pool layer of {name} has a batch-norm already (`pre_pool`)"
    elif where == "pre_pool" and repeats[-1:] == (0,):
        yield "batch_norm", "`pre_pool` needs a module in the last stage: without, that layer has a batch-norm already"
    if where == "none":
        for field, default in (("bn_gamma", True), ("bn_eps", 1e-3), ("bn_momentum", 0.1)):
            if given[field] != default:
                yield field, "there is no batch-norm with batch_norm `none`"


def _names_with_residuals() -> str:
    return ", ".join(name for name, row in ARCHITECTURES.items() if row.kind != "inception")


def _check_widths(name: str, row: Architecture, stem: str, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if row.kind == "inception":
        for field in ("trunk_width", "branch_width"):
            if given[field] != 1.0:
                why = f"{name} has no residual branch, its modules set the trunk's width: use width"
                yield field, f"{why}; those that have {field}: {_names_with_residuals()}"
    refused: list[tuple[float, str, str]] = []
    for factor, layer, filters in _narrowest(name, stem):
        if scale_filters(filters, given["width"] * given[factor]) < 1:
            field, other = ("width", factor) if given["width"] <= given[factor] else (factor, "width")
            works = _round_up(0.5 / filters / given[other])
            beside = f" with {other} {given[other]:g}" if given[other] != 1.0 else ""
            why = f"{given[field]:g} leaves no filter in {layer} of {name}"
            refused.append((works, field, f"{why}; the smallest {field} that works{beside} is {works:g}"))
    # Of two messages about one field, the last stays: the one that asks for more.
    yield from {field: why for _, field, why in sorted(refused)}.items()


@cache
def _narrowest(name: str, stem: str) -> tuple[tuple[str, str, int], ...]:
    """The layer with the fewest filters of those that a further factor scales: (the factor's field, layer, filters)."""
    row = ARCHITECTURES[name]
    plan = blueprint(name, _default_shape(row) | {"stem": stem})
    places = [("stem", module) for module in plan.stem]
    places += [(f"reduction {index + 1}", module) for index, module in enumerate(plan.reductions) if module]
    layers = [("trunk_width", place, conv) for place, module in places for conv in convs(module)]
    for index, stage in enumerate(plan.stages):
        for conv in (conv for module in stage for conv in convs(module)):
            # The last convolution of a plain residual branch is the one as wide as the trunk, and never the narrowest.
            layers.append(("branch_width", f"stage {index + 1}", conv))
    narrowest = (
        min((layer for layer in layers if layer[0] == field), key=lambda layer: layer[2].filters)
        for field in ("trunk_width", "branch_width")
    )
    return tuple((field, f"{place}, layer `{conv}`", conv.filters) for field, place, conv in narrowest)


def _round_up(value: float) -> float:
    """Round up to four significant digits, so that the printed number works."""
    step = 10.0 ** (math.floor(math.log10(value)) - 3)
    return math.ceil(value / step) * step
