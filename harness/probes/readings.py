"""From the units' sums to named readings, in float64, on the host.

Each definition is one function of a table; the words are those of `harness.probes.definitions`. All layers of a step
are laid end to end, so that a definition is a few numpy calls however many layers there are: P layers, U units in all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.probes.definitions import DORMANT_BELOW, INERT_VARIANCE, TAU

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layout:
    """Names of layers (P), how many units each has, and whether active positions, and those near zero, were counted.

    Equal ones are one object (see `layout_of`), so that what is computed from it is computed once.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    counts_active: tuple[bool, ...]
    counts_near: tuple[bool, ...]

    @cached_property
    def starts(self) -> Whole:
        """Where each layer's units begin, (P,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    @cached_property
    def of_unit(self) -> Whole:
        """To which layer each unit belongs, (U,)."""
        return np.repeat(np.arange(len(self.names)), self.sizes)

    @cached_property
    def counted(self) -> Bools:
        """Layers in which active positions were counted, (P,)."""
        return np.array(self.counts_active)

    @cached_property
    def counted_units(self) -> Bools:
        """Their units, (U,)."""
        return self.counted[self.of_unit]

    @cached_property
    def near_units(self) -> Bools:
        """Units of layers in which positions near zero were counted, (U,)."""
        return np.array(self.counts_near)[self.of_unit]

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each layer by its name."""
        return {name: position for position, name in enumerate(self.names)}

    def units(self, layer: int) -> slice:
        """Where a layer's units lie."""
        return slice(int(self.starts[layer]), int(self.starts[layer]) + self.sizes[layer])


@lru_cache(maxsize=64)
def layout_of(
    names: tuple[str, ...], sizes: tuple[int, ...], counts_active: tuple[bool, ...], counts_near: tuple[bool, ...]
) -> Layout:
    """The layout of these layers."""
    return Layout(names, sizes, counts_active, counts_near)


@dataclass(frozen=True)
class Units:
    """Statistics of every unit.

    count: positions per unit, (P,). mean, squares: mean and sum of squared deviations from it, (U,), both NaN for a
    unit with NaN or infinity, or with squares that the device's numbers cannot hold.
    active, near: positions that are not exactly zero, and that are near zero, (U,), NaN where they were not counted.
    """

    layout: Layout
    count: Floats
    mean: Floats
    squares: Floats
    active: Floats
    near: Floats

    @classmethod
    def from_sums(
        cls,
        layout: Layout,
        count: Floats,
        shift: Floats,
        total: Floats,
        squares: Floats,
        active: Floats,
        near: Floats,
    ) -> Units:
        """From sums over x - shift, each (U,); see `harness.probes.moments.Moments`."""
        with np.errstate(all="ignore"):
            deviation = total / count[layout.of_unit]
            squares = np.maximum(squares - total * deviation, 0.0)
            mean = shift + deviation
            lost = ~np.isfinite(mean + squares)
            mean[lost] = squares[lost] = np.nan
        return cls(layout, count, mean, squares, active, near)

    @cached_property
    def positions(self) -> Floats:
        """Positions per unit, (U,)."""
        return self.count[self.layout.of_unit]

    @cached_property
    def variance(self) -> Floats:
        """Population variance of each unit, (U,)."""
        return self.squares / self.positions

    @cached_property
    def dead(self) -> Bools:
        """Which units are zero everywhere, (U,); none where active positions were not counted."""
        zero: Bools = self.active == 0
        return zero

    @cached_property
    def inert(self) -> Bools:
        """Which units hardly vary, (U,); NaN and infinity are not inert."""
        still: Bools = self.variance <= INERT_VARIANCE
        return still

    def per_layer(self, values: NDArray[Any], join: np.ufunc = np.add) -> Floats:
        """The values of each layer's units, (U,), joined by a sum, or by another function: (P,)."""
        dtype = np.float64 if join is np.add else None
        joined: Floats = join.reduceat(values, self.layout.starts, dtype=dtype)
        return joined

    def over_units(self, values: Floats) -> Floats:
        """Mean of each layer's units of (U,): (P,)."""
        return self.per_layer(values) / self.layout.sizes

    @cached_property
    def mean_variance(self) -> Floats:
        """Variance of a unit, averaged over each layer's units, (P,)."""
        return self.over_units(self.variance)

    @cached_property
    def mean_squared_mean(self) -> Floats:
        """Squared mean of a unit, averaged over each layer's units, (P,)."""
        return self.over_units(self.mean**2)

    @cached_property
    def rms(self) -> Floats:
        """Root mean square of each layer's elements, (P,)."""
        return np.sqrt(self.mean_variance + self.mean_squared_mean)

    @cached_property
    def total_mean(self) -> Floats:
        """Mean of each layer's elements, (P,)."""
        return self.over_units(self.mean)

    @cached_property
    def deviation(self) -> Floats:
        """Standard deviation of each layer's elements, over units and positions, (P,)."""
        of_means = self.over_units((self.mean - self.total_mean[self.layout.of_unit]) ** 2)
        return np.sqrt(self.mean_variance + of_means)

    @cached_property
    def tau_dormant(self) -> Bools:
        """Which units' mean, in absolute value, is at most TAU of its mean over the layer's units, (U,)."""
        size = np.abs(self.mean)
        dormant: Bools = size <= TAU * self.over_units(size)[self.layout.of_unit]
        return dormant

    def dead_by_layer(self) -> dict[str, Bools]:
        """Which units are dead, (C,) for each layer in which active positions were counted.

        Of a layer without exact zeros, in which those near zero were counted, these are the inert ones.
        """
        layout = self.layout
        counted = np.flatnonzero(layout.counted).tolist()
        dead = np.where(layout.near_units, self.inert, self.dead)
        return {layout.names[layer]: dead[layout.units(layer)] for layer in counted}

    def scaled(self, source: tuple[str, ...], names: tuple[str, ...], factors: Floats) -> Units:
        """These layers followed by others: `names[i]` is `source[i]` times `factors[i]`."""
        if not source:
            return self
        layout, layers, units = _extended(self.layout, source, names)
        by_unit = factors[layout.of_unit[len(self.mean) :] - len(self.count)]
        return Units(
            layout,
            np.concatenate([self.count, self.count[layers]]),
            np.concatenate([self.mean, self.mean[units] * by_unit]),
            np.concatenate([self.squares, self.squares[units] * by_unit**2]),
            np.concatenate([self.active, np.full(len(units), np.nan)]),
            np.concatenate([self.near, np.full(len(units), np.nan)]),
        )


@lru_cache(maxsize=64)
def _extended(layout: Layout, source: tuple[str, ...], names: tuple[str, ...]) -> tuple[Layout, Whole, Whole]:
    """The layout with further layers of the size of `source` at its end; positions of those, and of their units."""
    layers = np.array([layout.index[name] for name in source])
    sizes = tuple(layout.sizes[layer] for layer in layers)
    units = np.concatenate([np.arange(sum(layout.sizes))[layout.units(layer)] for layer in layers])
    neither = (False,) * len(names)
    extended = layout_of(
        layout.names + names, layout.sizes + sizes, layout.counts_active + neither, layout.counts_near + neither
    )
    return extended, layers, units


def merge(parts: Sequence[Units]) -> Units:
    """The statistics of several batches, from those of each: micro-batches, ranks, or the parts of a set.

    A layer that only some of them have is merged over those. Raises ValueError if its units change in number.
    """
    if len(parts) == 1:
        return parts[0]
    layout = parts[0].layout
    if any(part.layout is not layout for part in parts):
        layout = _union([part.layout for part in parts])
        parts = [_spread(part, layout) for part in parts]
    positions = np.stack([part.positions for part in parts])
    means = np.stack([part.mean for part in parts])
    mean = (positions * means).sum(0) / positions.sum(0)
    squares = np.stack([part.squares for part in parts]).sum(0) + (positions * (means - mean) ** 2).sum(0)
    active, near = (np.stack([getattr(part, name) for part in parts]).sum(0) for name in ("active", "near"))
    return Units(layout, np.sum([part.count for part in parts], axis=0), mean, squares, active, near)


def _union(layouts: Sequence[Layout]) -> Layout:
    rows = dict.fromkeys(
        row
        for each in layouts
        for row in zip(each.names, each.sizes, each.counts_active, each.counts_near, strict=True)
    )
    names, sizes, counts_active, counts_near = zip(*rows, strict=True)
    if len(set(names)) < len(names):
        changed = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the number of units changes from one forward pass to the next in {', '.join(changed)}")
    return layout_of(names, sizes, counts_active, counts_near)


def _spread(part: Units, layout: Layout) -> Units:
    """The same on a larger layout; a layer that the part lacks has no positions."""
    count = np.zeros(len(layout.names))
    columns = np.zeros((4, sum(layout.sizes)))
    for position, name in enumerate(part.layout.names):
        layer, source = layout.index[name], part.layout.units(position)
        count[layer] = part.count[position]
        columns[:, layout.units(layer)] = [each[source] for each in (part.mean, part.squares, part.active, part.near)]
    return Units(layout, count, *columns)


LAYER_READINGS: Mapping[str, Callable[[Units], Floats]] = {
    # mean, and root of the mean square, of all elements
    "mean": lambda units: units.total_mean,
    "rms": lambda units: units.rms,
    # mean of all elements over their standard deviation: what all units and samples have in common
    "common_mode": lambda units: units.total_mean / units.deviation,
    # squared mean, and variance, of a unit, averaged over the units: the two parts of the mean square (NF-ResNet)
    "channel_mean_square": lambda units: units.mean_squared_mean,
    "channel_variance": lambda units: units.mean_variance,
    # smallest and largest variance of a unit, of those that are finite
    "channel_variance_min": lambda units: units.per_layer(units.variance, np.fmin),
    "channel_variance_max": lambda units: units.per_layer(units.variance, np.fmax),
    # units with NaN or infinity
    "nonfinite_units": lambda units: units.per_layer(np.isnan(units.mean)),
    # units that hardly vary: variance <= 1e-12; the dead ones of any activation
    "inert_units": lambda units: units.per_layer(units.inert),
}
"""Readings of every layer, (P,). Those that count units are joined by a `_share` of the layer's units."""


def active_readings(dormant_below: float = DORMANT_BELOW) -> Mapping[str, Callable[[Units], Floats]]:
    """Readings of layers in which active positions were counted, (P,)."""
    return {
        # share of elements that are exactly zero
        "zero_fraction": lambda units: 1 - units.over_units(units.active) / units.count,
        # units that are zero everywhere: the dead ones of ReLU and ReLU6, none by construction of GELU, SiLU, ...
        "dead_units": lambda units: units.per_layer(units.dead),
        # units active on less than a share of their positions
        "dormant_units": lambda units: units.per_layer(units.active < dormant_below * units.positions),
        # units whose mean is at most 0.025 of the layer's; where there are negative values, of absolute means
        "tau_dormant_units": lambda units: units.per_layer(units.tau_dormant),
    }


NEAR_READINGS: Mapping[str, Callable[[Units], Floats]] = {
    # share of elements with |x| <= 0.05
    "near_zero": lambda units: units.over_units(units.near) / units.count,
}
"""Readings of layers without exact zeros, which an activation such as GELU leaves, (P,)."""


@dataclass(frozen=True)
class Sums:
    """Every residual sum: its name, where its parts lie in the layout, and the inner products <skip, branch>, (S,)."""

    names: tuple[str, ...]
    units: Units
    products: Floats

    def rms(self, part: str) -> Floats:
        """Root mean square of `skip`, `branch` or `scaled`, (S,)."""
        values: Floats = self.units.rms[[self.units.layout.index[f"{name}/{part}"] for name in self.names]]
        return values

    @cached_property
    def mean_product(self) -> Floats:
        """Mean of skip * branch over all elements, (S,)."""
        index = [self.units.layout.index[f"{name}/skip"] for name in self.names]
        elements: Floats = self.units.count[index] * np.array(self.units.layout.sizes)[index]
        return self.products / elements


SUM_READINGS: Mapping[str, Callable[[Sums], Floats]] = {
    # RMS(alpha F) / RMS(x)
    "rms_ratio": lambda sums: sums.rms("scaled") / sums.rms("skip"),
    # cosine of the angle between x and F, in [-1, 1]; NaN if one of them is zero
    "cosine": lambda sums: sums.mean_product / (sums.rms("skip") * sums.rms("branch")),
}
"""Readings of a residual sum."""
SET_READINGS = ("feature_rank", "mean_share", "spectral_norm")
"""Readings of a fixed set only; see `harness.probes.set_readings`."""

READINGS: tuple[str, ...] = (*LAYER_READINGS, *active_readings(), *NEAR_READINGS, *SUM_READINGS, *SET_READINGS)
"""All readings by name."""
