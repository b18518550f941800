"""How well a number that is known beforehand sorts the runs that meet a fate from those that do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics.estimates import Estimate
from harness.located import InputError

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Areas:
    """Areas under the receiver's curve by score, and the first score's less each other's, with their intervals."""

    area: dict[str, Estimate]
    less: dict[str, Estimate]


def areas(scores: pd.DataFrame, fate: pd.Series[bool], cells: pd.Series[int], seed: int = 0) -> Areas:
    """The area of every column of `scores`: how often a run that meets its fate has the higher one, ties being half.

    Runs of one cell, which differ in their seed only, are no independent cases: the 95 % intervals are percentiles over
    resampled cells. n counts runs. Raises InputError where all runs meet the fate, or none.
    """
    values, met = scores.to_numpy(float), fate.to_numpy(bool)
    if met.all() or not met.any():
        raise InputError([f"{met.sum()} of {len(met)} runs are lost: nothing to sort"])
    members = [np.flatnonzero(cells.to_numpy() == cell) for cell in np.unique(cells)]
    random = np.random.default_rng(seed)
    samples: list[NDArray[np.float64]] = []
    while len(samples) < RESAMPLES:
        drawn = np.concatenate([members[place] for place in random.integers(len(members), size=len(members))])
        if met[drawn].any() and not met[drawn].all():
            samples.append(_areas(values[drawn], met[drawn]))
    found, spread = _areas(values, met), np.array(samples)

    def estimate(value: float, among: NDArray[np.float64]) -> Estimate:
        low, high = np.quantile(among, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(value, float(low), float(high), len(met))

    names = [str(name) for name in scores]
    return Areas(
        {name: estimate(float(found[place]), spread[:, place]) for place, name in enumerate(names)},
        {
            name: estimate(float(found[0] - found[place]), spread[:, 0] - spread[:, place])
            for place, name in enumerate(names)
            if place
        },
    )


def _areas(values: NDArray[np.float64], met: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mann and Whitney's U of each column over the number of pairs."""
    ranks = stats.rankdata(values, axis=0)
    events, others = int(met.sum()), int((~met).sum())
    above: NDArray[np.float64] = ranks[met].sum(axis=0) - events * (events + 1) / 2
    return above / (events * others)
