"""What is computed on the device: a few sums over each unit of an activation, nothing else, and no synchronisation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from harness.probes.definitions import NEAR_ZERO

EXACT_IN_FLOAT32 = 2**24
"""Whole numbers up to this are exact in float32."""


class Moments(NamedTuple):
    """Sums over all positions of every unit: tensors of C elements, and how many positions there were.

    The sums are of x - shift, where shift is the unit's first value, so that a unit that hardly varies keeps its
    variance in float32 whatever its mean, and a constant one has exactly none (Chan et al. 1983).
    """

    positions: int
    shift: Tensor
    total: Tensor
    squares: Tensor
    active: Tensor | None
    near: Tensor | None = None


def wide(x: Tensor) -> Tensor:
    """In float32, or float64 if it is that already."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class Reducer:
    """Makes the sums. Intermediate results go into one scratch tensor, which lasts until `clear`.

    On the CPU a large tensor that is fresh costs its page faults, several times the price of the sums.
    """

    def __init__(self) -> None:
        self._scratch: Tensor | None = None
        self._views: dict[tuple[object, ...], Tensor] = {}

    def clear(self) -> None:
        """Give the scratch memory back."""
        self._scratch, self._views = None, {}

    def _like(self, x: Tensor) -> Tensor | None:
        """Scratch of the shape and layout of `x`; None in a compiled graph, which needs none."""
        if torch.compiler.is_compiling():
            return None
        key = x.shape, x.stride(), x.dtype, x.device
        if key not in self._views:
            scratch, size = self._scratch, x.numel()
            if scratch is None or scratch.numel() < size or (scratch.dtype, scratch.device) != key[2:]:
                scratch = self._scratch = torch.empty(size, dtype=x.dtype, device=x.device)
                self._views = {}
            dense = x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))
            self._views[key] = scratch.as_strided(*key[:2]) if dense else scratch[:size].view(x.shape)
        return self._views[key]

    def moments(self, x: Tensor, axis: int, count_active: bool, count_near: bool = False) -> Moments:
        """Moments of an activation with at least 2 dimensions and 1 element, any floating type, units along `axis`.

        In float32, in float64 for float64. In float32 the square of a deviation above 1e19 is infinite, and that of one
        below 1e-22 is zero.
        count_active, count_near: count the positions that are not exactly zero, and those near zero; NaN is neither.
        """
        x = wide(x)
        others = [dimension for dimension in range(x.ndim) if dimension != axis]
        # a copy: the activation may be changed in place before the pass ends, and must not be kept alive
        shift = x[tuple(slice(None) if dimension == axis else 0 for dimension in range(x.ndim))].clone()
        scratch = self._like(x)
        deviation = torch.sub(x, shift.view([-1] + [1] * (x.ndim - 1 - axis)), out=scratch)
        total = deviation.sum(others)
        squares = torch.mul(deviation, deviation, out=scratch).sum(others)
        # a comparison that makes booleans is ten times slower on the CPU than one that writes floats
        exact = torch.float32 if x.numel() <= EXACT_IN_FLOAT32 else torch.float64
        active = torch.ne(x, 0, out=scratch).sum(others, dtype=exact) if count_active else None
        near = None
        if count_near:
            near = torch.le(torch.abs(x, out=scratch), NEAR_ZERO, out=scratch).sum(others, dtype=exact)
        return Moments(x.numel() // x.shape[axis], shift, total, squares, active, near)

    def inner_product(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum of the elements of x * y, two tensors of one shape: a scalar."""
        x = wide(x)
        return torch.mul(x, wide(y), out=self._like(x)).sum()
