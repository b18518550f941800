"""Which layers of a network lose their units first: timelines of unit deaths in numbers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.timeline import Timeline

Floats = NDArray[np.float64]


def layers_of(timeline: Timeline) -> tuple[str, ...]:
    """The layers of a timeline in forward order, such as were read under two names once.

    The activation at the end of a block is the block's output, and the last block's output may be what is pooled: of
    two neighbours with the same dead units at every reading the second name stays, where it is one of these.
    """
    pairs = itertools.pairwise([*timeline.layers, ""])
    return tuple(layer for layer, after in pairs if not (_renames(layer, after) and _equal(timeline, layer, after)))


def _renames(layer: str, after: str) -> bool:
    return after == "prepool" or (is_output(after) and not is_output(layer))


def is_output(layer: str) -> bool:
    """Whether a layer is what a block hands on, or what is pooled."""
    return layer == "prepool" or layer.endswith("/output")


def _equal(timeline: Timeline, one: str, other: str) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(timeline.raster(one), timeline.raster(other), strict=True))


def firsts(timelines: Mapping[str, Timeline], share: float = 1.0) -> pd.DataFrame:
    """The first layer of each run to lose at least a share of its units, in (0, 1].

    One row for each entry, in their order. Columns: `run`, its name; `layer`; `depth`, its number in the forward pass
    from 1 on, of `layers`; `alive_before` and `step`, which enclose the loss (steps of readings; `alive_before` is
    missing where the first reading shows it); `at_once`, layers that reached the share at this very reading, itself
    included, of which it is the first in the forward pass. Missing where no layer lost that share. Raises ValueError
    for a share out of its range.
    """
    columns = ["run", "layer", "depth", "layers", "alive_before", "step", "at_once"]
    found: list[dict[str, Any]] = []
    for run, timeline in timelines.items():
        names = layers_of(timeline)
        deaths = [death for death in timeline.order(share) if death.layer in names]
        row: dict[str, Any] = {"run": run, "layers": len(names)}
        if deaths:
            first = deaths[0]
            row |= {"layer": first.layer, "depth": names.index(first.layer) + 1, "step": first.step}
            row |= {"alive_before": first.alive_before if first.alive_before >= 0 else None}
            row |= {"at_once": sum(death.step == first.step for death in deaths)}
        found.append(row)
    return pd.DataFrame(found, columns=columns).astype(dict.fromkeys(columns[2:], "Int64"))


def unit_states(timeline: Timeline, layer: str) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Steps (R,) and the state of each unit at each, (C, R): 0 alive so far, 1 dead, 2 alive again.

    Units in order of the reading at which they first were dead, the longest dead first, those that never were at the
    end. Raises KeyError for an unknown layer.
    """
    (steps, dead), deaths = timeline.raster(layer), timeline.deaths(layer)
    order = np.lexsort((-deaths.dead_steps, deaths.onset, deaths.onset < 0))
    dead = dead[order]
    states = np.where(dead, 1, 2 * np.logical_or.accumulate(dead, axis=1))
    return steps, states.astype(np.int8)


def dead_shares(timeline: Timeline, layers: Sequence[str]) -> tuple[NDArray[np.int64], Floats]:
    """Steps (R,) at which some of the layers were read, and the share of dead units of each layer then, (layers, R).

    At a step at which a layer was not read its last reading holds; NaN before its first.
    """
    read = [timeline.dead_share(layer) for layer in layers]
    steps = np.unique(np.concatenate([each for each, _ in read]))
    last = [np.searchsorted(each, steps, side="right") for each, _ in read]
    return steps, np.stack([np.append(np.nan, shares)[place] for (_, shares), place in zip(read, last, strict=True)])


def prepool_of(timeline: Timeline) -> str:
    """The layer before the pool, by the name that `layers_of` leaves it."""
    return "prepool" if "prepool" in timeline.layers else timeline.layers[-1]
