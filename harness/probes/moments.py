"""What is computed on the device: a few sums over each unit of an activation, nothing else, and no synchronisation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

EXACT_IN_FLOAT32 = 2**24
"""Whole numbers up to this are exact in float32."""
_UNITS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention)


class Moments(NamedTuple):
    """Sums over all positions of every unit: tensors (C,), and how many positions there were.

    The sums are of x - shift, where shift is the unit's first value, so that a unit that hardly varies keeps its
    variance in float32 whatever its mean, and a constant one has exactly none (Chan et al. 1983).
    """

    count: int
    shift: Tensor
    total: Tensor
    squares: Tensor
    active: Tensor | None


def unit_axis(module: nn.Module, x: Tensor) -> int:
    """The axis of an activation that numbers its units, if nobody says.

    That of the channels for images (N, C, H, W) and volumes, the last one for (N, C) and for sequences (N, L, C), unless
    the module is a one-dimensional convolution, batch-norm or pooling, which make (N, C, L). Linear layers and
    layer-norms have it last whatever the shape.
    """
    if isinstance(module, _UNITS_LAST):
        return x.ndim - 1
    if x.ndim == 3:
        return 1 if type(module).__name__.endswith("1d") else 2
    return 1


def wide(x: Tensor) -> Tensor:
    """In float32, or float64 if it is that already."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def moments(x: Tensor, axis: int, count_active: bool) -> Moments:
    """Moments of an activation with at least 2 dimensions and 1 element, any floating type, units along `axis`.

    In float32, in float64 for float64: a deviation above 1e19 overflows its square to infinity.
    count_active: count the positions that are not exactly zero, too; NaN is not zero.
    """
    x = wide(x)
    others = [dimension for dimension in range(x.ndim) if dimension != axis]
    units = x.shape[axis]
    count = x.numel() // units
    first = x
    for dimension in reversed(others):
        first = first.select(dimension, 0)
    shift = torch.nan_to_num(first, 0.0, 0.0, 0.0)
    deviation = x - shift.view([units] + [1] * (x.ndim - 1 - axis))
    active = None
    if count_active:
        # a comparison that makes booleans is ten times slower on the CPU than one that writes floats
        if torch.compiler.is_compiling():
            mask = (x != 0).to(x.dtype)
        else:
            mask = torch.ne(x, 0, out=torch.empty_like(x))
        active = mask.sum(others, dtype=torch.float64 if count > EXACT_IN_FLOAT32 else None)
    return Moments(count, shift, deviation.sum(others), (deviation * deviation).sum(others), active)
