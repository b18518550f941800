"""Flat rows of named metrics from the layers' statistics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import compress

import numpy as np

from harness.probes.packets import Part
from harness.probes.readings import LAYER_READINGS, SUM_READINGS, Floats, Sums, Units, active_readings

Row = dict[str, float | int]
_DEFINED_BY_SOURCE = tuple(f"{word}_{kind}" for word in ("dead", "inert", "dormant") for kind in ("units", "share"))
"""Readings that mean another thing for another set of inputs, so that their names say `batch` too."""


class RowWriter:
    """Makes rows of the readings that are wanted.

    Metrics are LAYER/READING, of a residual sum SUM/READING; `_units` readings, which count units, are joined by a
    `_share` of the layer's units. `source` is appended where it is not the training batch: `_probe`, `_probe_eval`.
    """

    def __init__(self, readings: Sequence[str], dormant_below: float) -> None:
        self._layers = {name: each for name, each in LAYER_READINGS.items() if name in readings}
        self._active = {name: each for name, each in active_readings(dormant_below).items() if name in readings}
        self._sums = {name: each for name, each in SUM_READINGS.items() if name in readings}

    def row(self, units: Units, parts: Sequence[Part], source: str) -> Row:
        """The metrics of `units`, which are those of `parts` merged."""
        row: Row = {}
        with np.errstate(all="ignore"):
            units, sums = _complete(units, parts)
            layout = units.layout
            for reading, function in self._layers.items():
                _add(row, layout.names, reading, source, function(units), layout.sizes)
            names = tuple(compress(layout.names, layout.counts_active))
            sizes = tuple(compress(layout.sizes, layout.counts_active))
            for reading, function in self._active.items():
                _add(row, names, reading, source, function(units)[np.array(layout.counts_active)], sizes)
            if sums.names:
                for reading, of_sums in self._sums.items():
                    _add(row, sums.names, reading, source, of_sums(sums), ())
        return row


def _complete(units: Units, parts: Sequence[Part]) -> tuple[Units, Sums]:
    """Add each scaled branch whose factor is known; gather the inner products of all parts."""
    products: dict[str, float] = {}
    factors: dict[str, float] = {}
    for part in parts:
        for name, product, factor in zip(part.sums, part.products.tolist(), part.factors.tolist(), strict=True):
            products[name] = products.get(name, 0.0) + product
            if factor == factor:
                factors[name] = factor
    branches, scaled = [f"{name}/branch" for name in factors], [f"{name}/scaled" for name in factors]
    units = units.scaled(branches, scaled, list(factors.values()))
    return units, Sums(tuple(products), units, np.array(list(products.values())))


@lru_cache(maxsize=1024)
def _names(layers: tuple[str, ...], reading: str, source: str) -> tuple[str, ...]:
    if source != "batch" or reading in _DEFINED_BY_SOURCE:
        reading = f"{reading}_{source}"
    return tuple(f"{layer}/{reading}" for layer in layers)


def _add(row: Row, layers: tuple[str, ...], reading: str, source: str, values: Floats, sizes: tuple[int, ...]) -> None:
    if reading.endswith("_units"):
        row.update(zip(_names(layers, reading, source), values.astype(int).tolist(), strict=True))
        reading, values = reading.replace("_units", "_share"), values / np.array(sizes)
    row.update(zip(_names(layers, reading, source), values.tolist(), strict=True))
