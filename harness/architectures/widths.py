"""Arithmetic of filters and grids: what a module puts out for what it takes."""

from __future__ import annotations

import math
from dataclasses import replace

from harness.architectures.notation import Conv, Fork, Layer, Module


def scale_filters(filters: int, factor: float) -> int:
    """A filter count times a factor, rounded to the nearest whole number, halves upwards: monotone in both."""
    return math.floor(filters * factor + 0.5)


def scale_module(module: Module, factor: float, last_factor: float | None = None) -> Module:
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


def same_padding(module: Module) -> Module:
    """The module with same padding everywhere."""
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
