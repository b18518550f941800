"""Flat rows of named metrics from the layers' statistics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import compress

import numpy as np

from harness.probes.readings import (
    LAYER_READINGS,
    NEAR_READINGS,
    SUM_READINGS,
    Floats,
    Layout,
    Sums,
    Units,
    active_readings,
)
from harness.probes.transfer import UnpackedPass

Row = dict[str, float | int]
_DEFINED_BY_SOURCE = ("dead", "inert", "dormant", "tau_dormant")
"""Readings that mean another thing for another set of inputs, so that their names say `batch` too."""


class RowWriter:
    """Makes rows of the readings that are wanted.

    Metrics are LAYER/READING, of a residual sum SUM/READING. `source` is appended where it is not the training batch:
    `_probe`, `_probe_eval`.
    """

    def __init__(self, readings: Sequence[str], dormant_below: float) -> None:
        self._layers = {name: each for name, each in LAYER_READINGS.items() if name in readings}
        self._active = {name: each for name, each in active_readings(dormant_below).items() if name in readings}
        self._near = {name: each for name, each in NEAR_READINGS.items() if name in readings}
        self._sums = {name: each for name, each in SUM_READINGS.items() if name in readings}

    def row(self, units: Units, passes: Sequence[UnpackedPass], source: str) -> Row:
        """The metrics of `units`, which are those of `passes` merged."""
        row: Row = {}
        with np.errstate(all="ignore"):
            units, sums = _complete(units, passes)
            layout = units.layout
            every = (True,) * len(layout.names)
            kinds = (self._layers, every), (self._active, layout.counts_active), (self._near, layout.counts_near)
            for functions, layers in kinds:
                for reading, function in functions.items() if any(layers) else ():
                    _add(row, layout, layers, reading, source, function(units))
            for reading, of_sums in self._sums.items() if sums.names else ():
                names = (f"{name}/{_metric(reading, source)}" for name in sums.names)
                row.update(zip(names, of_sums(sums).tolist(), strict=True))
        return row


def _add(row: Row, layout: Layout, layers: tuple[bool, ...], reading: str, source: str, values: Floats) -> None:
    values = values[np.array(layers)]
    if reading.endswith("_units"):
        row.update(zip(_names(layout, layers, reading, source), values.astype(int).tolist(), strict=True))
        reading, values = reading.replace("_units", "_share"), values / np.array(layout.sizes)[np.array(layers)]
    row.update(zip(_names(layout, layers, reading, source), values.tolist(), strict=True))


def _complete(units: Units, passes: Sequence[UnpackedPass]) -> tuple[Units, Sums]:
    """Add each scaled branch whose factor is known; gather the inner products of all passes."""
    products: dict[str, float] = {}
    factors: dict[str, float] = {}
    for each in passes:
        for name, product, factor in zip(each.sums, each.products.tolist(), each.factors.tolist(), strict=True):
            products[name] = products.get(name, 0.0) + product
            if factor == factor:
                factors[name] = factor
    branches, scaled = tuple(f"{name}/branch" for name in factors), tuple(f"{name}/scaled" for name in factors)
    units = units.scaled(branches, scaled, np.array(list(factors.values())))
    return units, Sums(tuple(products), units, np.array(list(products.values())))


def _metric(reading: str, source: str) -> str:
    return f"{reading}_{source}" if source != "batch" or reading.startswith(_DEFINED_BY_SOURCE) else reading


@lru_cache(maxsize=1024)
def _names(layout: Layout, layers: tuple[bool, ...], reading: str, source: str) -> tuple[str, ...]:
    """The metric of each of the layers."""
    return tuple(f"{layer}/{_metric(reading, source)}" for layer in compress(layout.names, layers))
