"""The fields of a network completed from its row of the table, and those that do not fit refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from harness.architectures.fields import ModelConfig, Stem
from harness.architectures.notation import convs
from harness.architectures.plan import blueprint, minimum_image_size, published
from harness.architectures.table import ARCHITECTURES, Architecture, ArchitectureName
from harness.architectures.widths import scale_filters

Problem = tuple[str, str]
"""A field, and why it is refused."""


@cache
def _defaults(name: ArchitectureName, stem: Stem) -> Mapping[str, Any]:
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


def resolve(config: ModelConfig, image_size: int) -> tuple[ModelConfig, list[Problem]]:
    """Complete and check the configuration of a network for square images of this size.

    Returns it with a value in every field that was left out and that its architecture has, and with the one canonical
    form of what can be written in several ways; and the problems. A field that the architecture lacks keeps its
    default, so that equal networks have equal configurations. What is resolved stays as it is.
    """
    row = ARCHITECTURES[config.name]
    stem = config.stem
    if stem is None or row.kind == "resnet":
        fits = image_size >= minimum_image_size(config.name, "paper")
        stem = "paper" if fits or row.kind == "resnet" else "small"
    defaults = _defaults(config.name, stem)
    values = {field: value for field, value in defaults.items() if getattr(config, field) is None} | {"stem": stem}
    scale = values.get("residual_scale", config.residual_scale)
    if scale == "learned" and config.residual_scale_init is None:
        values["residual_scale_init"] = 1.0
    if isinstance(scale, tuple):
        values["residual_scale"] = _canonical_scale(row, scale)
    if config.up_projection_init == 1.0:
        values["up_projection_init"] = "default"
    resolved = config.model_copy(update=values)
    return resolved, [
        *_check_stem(resolved, row, stem, config.stem, image_size),
        *_check_lacking(config, stem),
        *_check_stages(resolved, row),
        *_check_batch_norm(resolved, row),
        *_check_widths(resolved, row, stem),
        *_check_residual_scale_init(resolved),
        *_check_aux_head(resolved, stem, image_size),
    ]


def _canonical_scale(row: Architecture, scales: tuple[float, ...]) -> float | tuple[float, ...]:
    """One form for equal scales: the last block's written out where it is set apart, one number if all are equal."""
    if row.last_block is not None and len(scales) == len(row.stages):
        scales = (*scales, row.last_block)
    complete = len(scales) == len(row.stages) + (row.last_block is not None)
    return scales[0] if complete and len(set(scales)) == 1 else scales


def _check_stem(
    config: ModelConfig, row: Architecture, stem: Stem, asked: Stem | None, image_size: int
) -> Iterator[Problem]:
    if asked not in (None, stem):
        yield "stem", f"{config.name} has one stem, which is one for small images: leave stem out"
    minimum = minimum_image_size(config.name, stem)
    if image_size < minimum:
        which = "the small-image stem" if stem == "small" else "the paper's stem"
        why = f"{which} of {config.name} needs images of at least {minimum}x{minimum}, not {image_size}x{image_size}"
        yield "stem", why


def _check_lacking(config: ModelConfig, stem: Stem) -> Iterator[Problem]:
    name, has = config.name, _defaults(config.name, stem)
    for field in _OPTIONAL:
        if getattr(config, field) is None or field in has:
            continue
        if field in _defaults(name, "paper"):
            yield field, f"{name} has no {field} with stem `{stem}`: figure and code differ in the paper's stem only"
        else:
            yield field, f"{name} has no {field}; those that have: {_names_with(field)}"


def _check_stages(config: ModelConfig, row: Architecture) -> Iterator[Problem]:
    name, stages = config.name, len(row.stages)
    repeats, scale = config.modules, config.residual_scale
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


def _check_batch_norm(config: ModelConfig, row: Architecture) -> Iterator[Problem]:
    name, where = config.name, config.batch_norm
    if where in ("branch_output", "after_sum") and row.kind == "inception":
        yield (
            "batch_norm",
            f"{name} has no residual branch, so no `{where}`; those that have: {_names_with_residuals()}",
        )
    elif where == "branch_output" and row.kind == "resnet":
        yield "batch_norm", f"every residual branch of {name} ends with a batch-norm already (`branch_output`)"
    elif where == "pre_pool" and (row.kind == "inception" or row.last_layer is not None):
        yield "batch_norm", f"the pre-pool layer of {name} has a batch-norm already (`pre_pool`)"
    elif where == "pre_pool" and config.modules[-1:] == (0,):
        yield "batch_norm", "`pre_pool` needs a module in the last stage: without, that layer has a batch-norm already"
    if where == "none":
        for field, default in (("bn_gamma", True), ("bn_eps", 1e-3), ("bn_momentum", 0.1)):
            if getattr(config, field) != default:
                yield field, "there is no batch-norm with batch_norm `none`"


def _names_with_residuals() -> str:
    return ", ".join(name for name, row in ARCHITECTURES.items() if row.kind != "inception")


def _check_widths(config: ModelConfig, row: Architecture, stem: Stem) -> Iterator[Problem]:
    name = config.name
    if row.kind == "inception":
        for field in ("trunk_width", "branch_width"):
            if getattr(config, field) != 1.0:
                why = f"{name} has no residual branch, its modules set the trunk's width: use width"
                yield field, f"{why}; those that have {field}: {_names_with_residuals()}"
    refused: list[tuple[float, str, str]] = []
    for factor, layer, filters in _narrowest(name, stem):
        given = {"width": config.width, factor: getattr(config, factor)}
        if scale_filters(filters, given["width"] * given[factor]) < 1:
            field, other = ("width", factor) if given["width"] <= given[factor] else (factor, "width")
            works = _round_up(0.5 / filters / given[other])
            beside = f" with {other} {given[other]:g}" if given[other] != 1.0 else ""
            why = f"{given[field]:g} leaves no filter in {layer} of {name}"
            refused.append((works, field, f"{why}; the smallest {field} that works{beside} is {works:g}"))
    # Of two messages about one field, the last stays: the one that asks for more.
    yield from {field: why for _, field, why in sorted(refused)}.items()


def _check_residual_scale_init(config: ModelConfig) -> Iterator[Problem]:
    if config.residual_scale_init is not None and config.residual_scale != "learned":
        yield "residual_scale_init", "only with residual_scale `learned`"


def _check_aux_head(config: ModelConfig, stem: Stem, image_size: int) -> Iterator[Problem]:
    if config.aux_head and "aux_head" in _defaults(config.name, stem):
        minimum = minimum_image_size(config.name, stem, aux_head=True)
        if image_size < minimum:
            why = f"the auxiliary head of {config.name} needs images of at least {minimum}x{minimum}"
            yield "aux_head", f"{why} with stem `{stem}`, not {image_size}x{image_size}"


@cache
def _narrowest(name: ArchitectureName, stem: Stem) -> tuple[tuple[str, str, int], ...]:
    """The layer with the fewest filters of those that a further factor scales: (the factor's field, layer, filters)."""
    plan = blueprint(published(name, stem))
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
