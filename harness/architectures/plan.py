"""A row of the table with every filter count scaled: what `harness.models` builds, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from harness.architectures.fields import ModelConfig, Stem
from harness.architectures.notation import Conv, Module, parse
from harness.architectures.table import (
    ARCHITECTURES,
    AUX_POOL,
    AUX_STAGE,
    SMALL_STEM_FIRST,
    Architecture,
    ArchitectureName,
)
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


def blueprint(config: ModelConfig) -> Blueprint:
    """Scale a row of the table as a resolved configuration says."""
    row = ARCHITECTURES[config.name]
    trunk = config.width * config.trunk_width
    inner = config.width * config.branch_width
    order = bool(config.figure_order)
    stem = tuple(scale_module(parse(text, order), trunk) for text in row.stem)
    reductions = tuple(scale_module(parse(text, order), trunk) for text in row.reductions)
    if config.stem == "small":
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
        for stage, repeats in zip(row.stages, config.modules, strict=True)
    )
    return Blueprint(
        architecture=row,
        stem=stem,
        stages=stages,
        reductions=reductions or (None,) * (len(row.stages) - 1),
        last_layer=None if row.last_layer is None else scale_module(parse(row.last_layer), trunk),
    )


@cache
def up_projected(name: ArchitectureName, factor: float) -> int | None:
    """Channels that enter the up-projection of a block of the last stage, every branch's filters times a factor.

    As published 448 in Inception-ResNet-v2 and 384 in v1 (figures 19 and 13); None for architectures without any.
    """
    row = ARCHITECTURES[name]
    if row.kind != "inception_resnet":
        return None
    return out_width(scale_module(parse(row.stages[-1].module(0)), factor), 0)


@cache
def minimum_image_size(name: ArchitectureName, stem: Stem, aux_head: bool = False) -> int:
    """The smallest square image: the first stage sees more than one position, and every grid has at least one.

    The auxiliary head needs 5x5 positions after the second stage.
    """
    plan = blueprint(published(name, stem))
    size = 1
    while True:
        grids = plan.grids(size)
        if grids[0] > 1 and min(grids) >= 1 and (not aux_head or grids[AUX_STAGE] >= AUX_POOL):
            return size
        size += 1


@cache
def published(name: ArchitectureName, stem: Stem) -> ModelConfig:
    """The network at its published size, in what shapes it."""
    return ModelConfig(name=name, stem=stem, repeats=tuple(stage.repeats for stage in ARCHITECTURES[name].stages))


def residual_scales(config: ModelConfig) -> tuple[tuple[float, ...], ...]:
    """Each block's residual scale, stage by stage; the initial ones if they are learned. Empty if there are none."""
    row = ARCHITECTURES[config.name]
    if row.kind == "inception":
        return ()
    scale = config.residual_scale_init if config.residual_scale == "learned" else config.residual_scale
    assert scale is not None, "a resolved residual net has a scale"
    if not isinstance(scale, tuple):
        return tuple((scale,) * count for count in config.modules)
    per_block = [[value] * count for value, count in zip(scale, config.modules, strict=False)]
    if row.last_block is not None and per_block[-1]:
        per_block[-1][-1] = scale[-1]
    return tuple(tuple(stage) for stage in per_block)
