"""What changes when one field of the configuration does: runs that differ in nothing else, compared seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from analysis.frames import columns
from analysis.frames.columns import demand
from analysis.statistics import estimates
from analysis.statistics.estimates import Estimate
from harness.located import InputError
from harness.patterns import suggestion


@dataclass(frozen=True, eq=False)
class Contrast:
    """A metric at one level of a field less that at another.

    estimate: mean over the seeds with Student's interval; n counts seeds, each the mean of its pairs.
    by_seed: the seeds' own differences, by seed. pairs: runs compared two by two. unmatched: finished runs of the two
        levels without a partner, or without the metric, left out.
    """

    estimate: Estimate
    by_seed: pd.Series[float]
    pairs: int
    unmatched: int

    def __str__(self) -> str:
        left_out = f"; {self.unmatched} runs without a partner left out" if self.unmatched else ""
        return f"{self.estimate}, from {self.pairs} pairs{left_out}"


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t-tests (Schuirmann 1987) of whether a mean difference lies within a margin fixed beforehand.

    not_lower: p of "it is at or below -margin", small where the treatment does no harm (non-inferiority). not_higher: p
    of "it is at or above the margin". p: the larger, of equivalence. n: values. All NaN with fewer than two values.
    """

    margin: float
    not_lower: float
    not_higher: float
    n: int

    @property
    def p(self) -> float:
        """Of the hypothesis that the difference is not within the margin."""
        return max(self.not_lower, self.not_higher)


def difference(runs: pd.DataFrame, metric: str, column: str, level: Any, control: Any) -> Contrast:
    """How much higher a metric (its last value) is at `level` of a column than at `control`, both values of it.

    Runs are paired that agree in the seed and in every other training field that varies; what an architecture or
    optimizer brings with its name is part of that name. Finished runs only. A run that died keeps its last reading, and
    a dead network's stays what it is; to compare survivors only, see `spared_cells`. Raises InputError for a column or
    metric that the frame lacks, for a level that no finished run has, and where nothing can be paired.
    """
    demand(runs, metric, column)
    finished = runs[runs["state"] == "finished"]
    others = [name for name in columns.candidates(runs) if name != column]
    arms = [_arm(finished, column, value, metric, [*others, "seed"]) for value in (level, control)]
    pairs = pd.concat(arms, axis=1, join="inner").dropna()
    if pairs.empty:
        raise InputError([f"no run at {column} = {level} has a partner at {control} that is equal in all else"])
    of_pair = pairs.iloc[:, 0].astype(float) - pairs.iloc[:, 1].astype(float)
    by_seed = of_pair.groupby(level="seed").mean()
    unmatched = sum(map(len, arms)) - 2 * len(pairs)
    return Contrast(estimates.mean(by_seed.to_numpy()), by_seed, len(pairs), unmatched)


def spared_cells(runs: pd.DataFrame, column: str, control: Any) -> pd.DataFrame:
    """The runs of those cells in which every run at `control` of a column survived: where no treatment was needed.

    A cell is a combination of the other training fields that vary, seed apart. It is kept only if it has runs at
    `control` and all of them finished and survived. Raises InputError as `difference` does.
    """
    demand(runs, column)
    others = [name for name in columns.candidates(runs) if name != column]
    at_control = runs[_equals(runs, column, control)]
    survived = (at_control["outcome"] == "survived").groupby(_keys(at_control, others)).all()
    keep = _keys(runs, others).map(survived).eq(True)
    return runs[keep]


def equivalence(values: ArrayLike, margin: float) -> Equivalence:
    """Whether independent differences, one a seed, have a mean within `margin` > 0 of zero."""
    numbers = np.asarray(values, dtype=np.float64)
    if not margin > 0:
        raise ValueError(f"the margin must be positive, found {margin:g}")
    n = len(numbers)
    if n < 2:
        return Equivalence(margin, math.nan, math.nan, n)
    error = float(numbers.std(ddof=1)) / math.sqrt(n)
    with np.errstate(divide="ignore"):
        below, above = (np.float64(numbers.mean()) + np.array([margin, -margin])) / error
    return Equivalence(margin, float(stats.t.sf(below, n - 1)), float(stats.t.cdf(above, n - 1)), n)


def stratified_difference(strata: Sequence[tuple[int, int, int, int]]) -> tuple[Estimate, float]:
    """How much larger a share is in one group than in another, stratum by stratum, and the p-value that it is none.

    strata: of each the events and runs of the group, and of the other. The estimate is the mean of the strata's
    differences, each counting the same, with the interval that Wilson's intervals of the shares give together (MOVER,
    Zou and Donner 2008; of one stratum that is Newcombe's); p is Cochran's, Mantel's and Haenszel's, two-sided, without
    a correction for continuity. Raises InputError for a group of no runs.
    """
    if any(not (n and other_n) for _, n, _, other_n in strata) or not strata:
        raise InputError(["no finished run in one of the groups to compare"])
    difference, below, above, excess, variance = 0.0, 0.0, 0.0, 0.0, 0.0
    for events, n, other, other_n in strata:
        share, other_share = events / n, other / other_n
        (low, high), (other_low, other_high) = estimates.wilson(events, n), estimates.wilson(other, other_n)
        difference += share - other_share
        below += (share - low) ** 2 + (other_high - other_share) ** 2
        above += (high - share) ** 2 + (other_share - other_low) ** 2
        total, happened = n + other_n, events + other
        excess += events - n * happened / total
        variance += n * other_n * happened * (total - happened) / (total**2 * (total - 1))
    k = len(strata)
    p = float(stats.chi2.sf(excess**2 / variance, 1)) if variance else 1.0
    low, high = difference / k - math.sqrt(below) / k, difference / k + math.sqrt(above) / k
    return Estimate(difference / k, low, high, sum(n + other_n for _, n, _, other_n in strata)), p


def _arm(runs: pd.DataFrame, column: str, value: Any, metric: str, keys: list[str]) -> pd.Series[Any]:
    """The metric of the runs at one level, by all else that tells them apart."""
    there = runs[_equals(runs, column, value)]
    if there.empty:
        found = [str(each) for each in runs[column].unique()]
        raise InputError([f"no finished run has {column} = {value}{suggestion(str(value), found)}"])
    index = pd.MultiIndex.from_frame(_comparable(there[keys]))
    return pd.Series(there[metric].to_numpy(), index=index)


def _equals(runs: pd.DataFrame, column: str, value: Any) -> pd.Series[bool]:
    return runs[column].isna() if value is None else runs[column] == value


def _comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """Missing values as a word, since they equal nothing, not even each other."""
    return frame.astype(object).where(frame.notna(), "none")


def _keys(runs: pd.DataFrame, columns: list[str]) -> pd.Series[Any]:
    rows = [tuple(fields) for fields in _comparable(runs[columns]).to_numpy()]
    return pd.Series(rows, index=runs.index, dtype=object)
