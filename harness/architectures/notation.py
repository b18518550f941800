"""The notation of the table, as in the papers' figures, and what it is read into.

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

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal


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
