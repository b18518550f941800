"""The fields of a network completed from its row of the table, and those that do not fit refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from harness.architectures.notation import convs
from harness.architectures.plan import blueprint, default_shape, minimum_image_size
from harness.architectures.table import ARCHITECTURES, Architecture
from harness.architectures.widths import scale_filters


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
    plan = blueprint(name, default_shape(row) | {"stem": stem})
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
