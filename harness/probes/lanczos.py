"""The largest eigenvalue of a symmetric matrix of which only products with vectors are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Eigenvalue:
    """value: the algebraically largest eigenvalue, from below; NaN where the matrix is not finite.

    error: an estimate of how much is missing, as a share of its absolute value. products: how many were made.
    """

    value: float
    error: float
    products: int


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], start: Tensor, products: int = 30, tolerance: float = 1e-4
) -> Eigenvalue:
    """Lanczos' method from a vector `start` (n,), not zero, until the error is estimated to be below `tolerance`.

    Three vectors are kept: without reorthogonalisation found eigenvalues come up again, the largest stays right (Paige
    1972). The error is the smaller of the residual r and r**2 / gap (Kato-Temple), the gap that to the next Ritz value.
    Waits for the device twice a product. Raises ValueError for fewer than 1 product, or a tolerance below 0.
    """
    if products < 1:
        raise ValueError(f"products is {products}; expected a whole number >= 1")
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; expected a number >= 0")
    vector, before = start / start.norm(), torch.zeros_like(start)
    diagonal: list[float] = []
    beside: list[float] = []
    last = 0.0
    while True:
        new = product(vector)
        diagonal.append(float(new @ vector))
        new = new - diagonal[-1] * vector - last * before
        last = float(new.norm())
        if not math.isfinite(last + diagonal[-1]):
            return Eigenvalue(math.nan, math.nan, len(diagonal))
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        residual = last * abs(float(vectors[-1, -1]))
        gap = float(values[-1] - values[-2]) if len(values) > 1 else 0.0
        missing = min(residual, residual**2 / gap) if gap > 0 else residual
        size = abs(float(values[-1]))
        error = 0.0 if missing == 0 else missing / size if size > 0 else math.inf
        ended = last <= torch.finfo(start.dtype).eps * float(np.abs(values).max())  # nothing is left to find
        if ended or error <= tolerance or len(diagonal) in (products, start.numel()):
            return Eigenvalue(float(values[-1]), error, len(diagonal))
        beside.append(last)
        before, vector = vector, new / last
