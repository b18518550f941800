"""A row of the table with every filter count scaled: what `harness.models` builds, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from harness.architectures.notation import Conv, Module, parse
from harness.architectures.table import ARCHITECTURES, AUX_POOL, AUX_STAGE, SMALL_STEM_FIRST, Architecture
from harness.architectures.widths import out_grid, out_width, same_padding, scale_filters, scale_module


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
    stem = tuple(scale_module(parse(text, order), trunk) for text in row.stem)
    reductions = tuple(scale_module(parse(text, order), trunk) for text in row.reductions)
    if axes["stem"] == "small":
        stem_width = 0
        for module in stem:
            stem_width = out_width(module, stem_width)
        first = Conv((3, 3), scale_filters(SMALL_STEM_FIRST, trunk), stride=2)
        stem = (((first,),), ((Conv((3, 3), stem_width, stride=2),),))
        # Same padding: a 4x4 grid becomes 2x2, and a 2x2 grid does not vanish.
        reductions = tuple(same_padding(module) for module in reductions)
    ending = trunk if row.kind == "resnet" else inner  # a plain residual branch ends with the trunk's width
    stages = tuple(
        tuple(scale_module(parse(stage.module(index), order), inner, ending) for index in range(repeats))
        for stage, repeats in zip(row.stages, axes["repeats"], strict=True)
    )
    return Blueprint(
        architecture=row,
        stem=stem,
        stages=stages,
        reductions=reductions or (None,) * (len(row.stages) - 1),
        last_layer=None if row.last_layer is None else scale_module(parse(row.last_layer), trunk),
    )


@cache
def minimum_image_size(name: str, stem: str, aux_head: bool = False) -> int:
    """The smallest square image: the first stage sees more than one position, and every grid has at least one.

    The auxiliary head needs 5x5 positions after the second stage.
    """
    row = ARCHITECTURES[name]
    plan = blueprint(name, default_shape(row) | {"stem": stem})
    size = 1
    while True:
        grids = plan.grids(size)
        if grids[0] > 1 and min(grids) >= 1 and (not aux_head or grids[AUX_STAGE] >= AUX_POOL):
            return size
        size += 1


def default_shape(row: Architecture) -> dict[str, Any]:
    """The axes of the published network."""
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
