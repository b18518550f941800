"""From the units' sums to named readings: each definition is one function of a table, in float64, on the host.

The words are those of `harness.probes.definitions`. All layers of a step are laid end to end, so that a definition is
a few numpy calls however many layers there are: P layers, U units in all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.probes.definitions import DORMANT_BELOW, INERT_VARIANCE

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Layout:
    """Names of layers (P), how many units each has, and whether active positions were counted in it."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    counts_active: tuple[bool, ...]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each layer's units begin, (P,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    @cached_property
    def of_unit(self) -> NDArray[np.int64]:
        """To which layer each unit belongs, (U,)."""
        return np.repeat(np.arange(len(self.names)), self.sizes)

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each layer by its name."""
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def grid(self) -> NDArray[np.int64]:
        """Each layer's units in a row of its own, filled up with U, (P, largest layer)."""
        columns = np.arange(max(self.sizes))
        inside = columns < np.array(self.sizes)[:, None]
        return np.where(inside, self.starts[:, None] + columns, sum(self.sizes))

    def units(self, name: str) -> slice:
        """Where a layer's units lie."""
        position = self.index[name]
        return slice(int(self.starts[position]), int(self.starts[position]) + self.sizes[position])


@dataclass(frozen=True)
class Units:
    """Statistics of every unit.

    count: positions per unit, (P,). mean, squares: mean and sum of squared deviations from it, (U,).
    active: positions that are not exactly zero, (U,), NaN where they were not counted.
    """

    layout: Layout
    count: Floats
    mean: Floats
    squares: Floats
    active: Floats

    @classmethod
    def from_sums(
        cls, layout: Layout, count: Floats, shift: Floats, total: Floats, squares: Floats, active: Floats
    ) -> Units:
        """From sums over x - shift, each (U,); see `harness.probes.moments.Moments`."""
        positions = count[layout.of_unit]
        with np.errstate(all="ignore"):
            deviation = total / positions
            return cls(layout, count, shift + deviation, np.maximum(squares - total * deviation, 0.0), active)

    @cached_property
    def positions(self) -> Floats:
        """Positions per unit, (U,)."""
        return self.count[self.layout.of_unit]

    @cached_property
    def variance(self) -> Floats:
        """Population variance of each unit, (U,), NaN for a unit with NaN or infinity."""
        return self.squares / self.positions

    @cached_property
    def mean_square(self) -> Floats:
        """Second moment of each unit, (U,)."""
        return np.where(np.isnan(self.variance), self.mean**2, self.variance + self.mean**2)

    @cached_property
    def finite(self) -> Bools:
        """Which units have nothing but finite values (and squares that float32 can hold), (U,)."""
        return np.isfinite(self.mean) & np.isfinite(self.squares)

    @cached_property
    def sorted_variances(self) -> Floats:
        """Each layer's finite variances in rising order, then NaN, (P, largest layer)."""
        known = np.append(np.where(self.finite, self.variance, np.nan), np.nan)
        return np.sort(known[self.layout.grid], axis=1)

    @cached_property
    def dead(self) -> Bools:
        """Which units are zero everywhere, (U,); none where active positions were not counted."""
        return self.active == 0

    def per_layer(self, values: Floats | Bools) -> Floats:
        """Sums over each layer's units, (P,)."""
        return np.add.reduceat(values.astype(np.float64), self.layout.starts)

    def mean_over_units(self, values: Floats) -> Floats:
        """Means over each layer's units, (P,)."""
        return self.per_layer(values) / self.layout.sizes

    def dead_by_layer(self) -> dict[str, Bools]:
        """Which units are dead, (C,) for each layer in which active positions were counted."""
        names = [name for name, counted in zip(self.layout.names, self.layout.counts_active, strict=True) if counted]
        return {name: self.dead[self.layout.units(name)] for name in names}

    def scaled(self, source: Sequence[str], names: Sequence[str], factors: Sequence[float]) -> Units:
        """These layers followed by others: `names[i]` is `source[i]` times `factors[i]`."""
        if not source:
            return self
        sizes = [self.layout.sizes[self.layout.index[name]] for name in source]
        layout = Layout(
            (*self.layout.names, *names),
            (*self.layout.sizes, *sizes),
            (*self.layout.counts_active, *[False] * len(sizes)),
        )
        parts = [self.layout.units(name) for name in source]
        with np.errstate(all="ignore"):
            return Units(
                layout,
                np.concatenate([self.count, [self.count[self.layout.index[name]] for name in source]]),
                np.concatenate([self.mean, *[self.mean[p] * f for p, f in zip(parts, factors, strict=True)]]),
                np.concatenate([self.squares, *[self.squares[p] * f**2 for p, f in zip(parts, factors, strict=True)]]),
                np.concatenate([self.active, np.full(sum(sizes), np.nan)]),
            )


def merge(parts: Sequence[Units]) -> Units:
    """The statistics of several batches, from those of each: micro-batches, ranks, or the parts of a set.

    A layer that only some of them have is merged over those.
    """
    if len(parts) == 1:
        return parts[0]
    layout = parts[0].layout
    if any(part.layout != layout for part in parts):
        layout = _union([part.layout for part in parts])
        parts = [_spread(part, layout) for part in parts]
    with np.errstate(all="ignore"):
        positions = np.stack([part.positions for part in parts])
        means = np.stack([part.mean for part in parts])
        total = positions.sum(0)
        mean = (positions * means).sum(0) / total
        squares = np.stack([part.squares for part in parts]).sum(0) + (positions * (means - mean) ** 2).sum(0)
    active = np.stack([part.active for part in parts]).sum(0)
    return Units(layout, np.sum([part.count for part in parts], axis=0), mean, squares, active)


def _union(layouts: Sequence[Layout]) -> Layout:
    rows = dict.fromkeys(
        row for each in layouts for row in zip(each.names, each.sizes, each.counts_active, strict=True)
    )
    names, sizes, counts_active = zip(*rows, strict=True)
    if len(set(names)) < len(names):
        changed = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the number of units changes from one forward pass to the next in {', '.join(changed)}")
    return Layout(names, sizes, counts_active)


def _spread(part: Units, layout: Layout) -> Units:
    """The same on a larger layout; a layer that the part lacks has no positions."""
    count = np.zeros(len(layout.names))
    columns = np.zeros((3, sum(layout.sizes)))
    for name, position in part.layout.index.items():
        count[layout.index[name]] = part.count[position]
        source = part.layout.units(name)
        columns[:, layout.units(name)] = part.mean[source], part.squares[source], part.active[source]
    return Units(layout, count, *columns)


# -- layers ------------------------------------------------------------------------------------------------------------


def _quantile(units: Units, share: float) -> Floats:
    """Quantile of each layer's finite variances, the lower of two neighbours; NaN if there are none: (P,)."""
    known = units.per_layer(units.finite).astype(np.int64)
    rank = ((np.maximum(known, 1) - 1) * share).astype(np.int64)
    values: Floats = units.sorted_variances[np.arange(len(rank)), rank]
    return values


LAYER_READINGS: Mapping[str, Callable[[Units], Floats]] = {
    # mean of all elements
    "mean": lambda units: units.mean_over_units(units.mean),
    # root of the mean square of all elements
    "rms": lambda units: np.sqrt(units.mean_over_units(units.mean_square)),
    # mean over the units of their squared mean, and of their variance: the two parts of the mean square (NF-ResNet)
    "channel_mean_square": lambda units: units.mean_over_units(units.mean**2),
    "channel_variance": lambda units: units.mean_over_units(units.variance),
    # smallest, median (the lower one of two) and largest variance of a unit, of those that are finite
    "channel_variance_min": lambda units: _quantile(units, 0.0),
    "channel_variance_median": lambda units: _quantile(units, 0.5),
    "channel_variance_max": lambda units: _quantile(units, 1.0),
    # units with a NaN or infinity
    "nonfinite_units": lambda units: units.per_layer(~units.finite),
    # units that hardly vary: variance <= 1e-12
    "inert_units": lambda units: units.per_layer(units.variance <= INERT_VARIANCE),
}
"""Readings of every layer, (P,)."""


def active_readings(dormant_below: float = DORMANT_BELOW) -> Mapping[str, Callable[[Units], Floats]]:
    """Readings of layers whose active positions were counted, (P,)."""
    return {
        # share of elements that are exactly zero
        "zero_fraction": lambda units: 1 - units.per_layer(units.active) / units.per_layer(units.positions),
        # units that are zero everywhere
        "dead_units": lambda units: units.per_layer(units.dead),
        # units active on less than this share of their positions
        "dormant_units": lambda units: units.per_layer(units.active < dormant_below * units.positions),
    }


# -- residual sums -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sums:
    """Every residual sum: its name, where its parts lie in the layout, and the inner products <skip, branch>, (S,)."""

    names: tuple[str, ...]
    units: Units
    products: Floats

    def norm(self, part: str) -> Floats:
        """Euclidean norm of `skip`, `branch` or `scaled`, (S,)."""
        index = [self.units.layout.index[f"{name}/{part}"] for name in self.names]
        return np.sqrt(self.units.per_layer(self.units.mean_square)[index] * self.units.count[index])


SUM_READINGS: Mapping[str, Callable[[Sums], Floats]] = {
    # RMS(alpha F) / RMS(x)
    "rms_ratio": lambda sums: sums.norm("scaled") / sums.norm("skip"),
    # cosine of the angle between x and F, in [-1, 1]; NaN if one of them is zero
    "cosine": lambda sums: sums.products / (sums.norm("skip") * sums.norm("branch")),
}
"""Readings of every residual sum, (S,)."""

READINGS: tuple[str, ...] = (*LAYER_READINGS, *active_readings(), *SUM_READINGS)
"""All readings by name. `_units` readings count units and come with a `_share` of them."""
