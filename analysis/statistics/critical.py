"""The critical learning rate, at which half of the runs lose their function, and the law it may follow.

On a quadratic of curvature λ, momentum m and a delay of τ updates are stable up to lr λ = `threshold(m, τ)`. If that is
what kills, the critical rates of nets that differ in m and τ only are that threshold times one constant, 1/λ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize

from analysis.frames.columns import demand
from analysis.statistics import health
from analysis.statistics.dose import CUTOFF, lethal_dose
from analysis.statistics.estimates import Estimate
from harness.located import InputError
from harness.optim.stability import threshold

RATE, MOMENTUM, REPLICAS, ORDER = "optim.lr", "optim.momentum", "optim.replicas", "optim.replica_order"
MOST = 4.0
"""The largest exponent that is looked for, in size."""
Floats = NDArray[np.float64]


def critical_rates(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The rate at which half of the runs are functionally dead at their end, for each combination of other columns.

    Columns: those of `by`; `rate`, `low`, `high` (95 %; 0 or infinite beyond the rates tested), `lowest` and `highest`
    rate tested, `runs`, and `censored`: `below` or `above` where half are lost beyond the rates tested, on that side,
    else empty. Combinations with fewer than two rates are left out. Raises InputError for a missing column.
    """
    demand(runs, RATE, *by)
    dead = health.functionally_dead(runs)
    found = []
    for values, part in runs.groupby(list(by), dropna=False):
        try:
            dose = lethal_dose(part, RATE, dead=dead)
        except InputError:  # fewer than two rates
            continue
        end, (lowest, highest) = dose.estimate, dose.tested
        censored = "below" if end.value < lowest else "above" if end.value > highest else ""
        found.append((*values, end.value, end.low, end.high, lowest, highest, end.n, censored))
    return pd.DataFrame(found, columns=[*by, "rate", "low", "high", "lowest", "highest", "runs", "censored"])


@dataclass(frozen=True, eq=False)
class Law:
    """Critical rates held against the threshold of linear stability, up to one constant.

    curvature: the constant λ, such that half of all runs are dead at lr = threshold / λ; where no rate tested is such,
        nothing is predicted.
    exponent: of the critical rate in the threshold, 1 if the law holds.
    points: the table of critical rates with `threshold`, the rate `predicted` by the constant, and `ratio`, of the
        measured to the predicted one.
    """

    curvature: Estimate
    exponent: Estimate
    points: pd.DataFrame

    def rates(self, momentum: float, delays: Iterable[int]) -> Floats:
        """The rates that it predicts for some delays, of replicas in turn; NaN where it predicts nothing."""
        constant = self.curvature.value if self.curvature.located else math.nan
        return np.array([threshold(momentum, delay) for delay in delays]) / constant


def against_threshold(runs: pd.DataFrame) -> Law:
    """Hold the critical rates of runs that differ in rate, momentum and replicas against the threshold of stability.

    Raises InputError for a missing column, and where fewer than two rates were tested.
    """
    demand(runs, RATE, MOMENTUM, REPLICAS)
    by = [MOMENTUM, REPLICAS, *([ORDER] if ORDER in runs else [])]
    points = critical_rates(runs, by)
    limits = [_threshold(*values) for values in points[by].itertuples(index=False)]
    of_runs = pd.Series([_threshold(*values) for values in runs[by].itertuples(index=False)], index=runs.index)
    inverse = "threshold / rate"  # falls as the rate rises
    dose = lethal_dose(
        runs.assign(**{inverse: of_runs / runs[RATE]}), inverse, rising=False, dead=health.functionally_dead(runs)
    )
    constant = dose.estimate.value if dose.located else math.nan
    points = points.assign(threshold=limits, predicted=np.array(limits) / constant)
    exponent = power_law(runs.assign(threshold=of_runs), "threshold")
    return Law(dose.estimate, exponent, points.assign(ratio=points["rate"] / points["predicted"]))


def _threshold(momentum: float, replicas: float, order: object = None) -> float:
    return threshold(float(momentum), int(replicas) - 1, "random" if order == "random" else "round_robin")


def power_law(runs: pd.DataFrame, column: str) -> Estimate:
    """The exponent b with which the critical rate follows a positive column, such as a width: rate ~ column ** b.

    The likelihood is that of `dose`, P(dead) a logistic function of log(rate) - b log(column) with Firth's penalty; the
    interval is the profile's, infinite beyond exponents of MOST in size. Its n counts runs. Raises InputError for a
    missing column, and for fewer than two values of it or of the rate.
    """
    demand(runs, RATE, column)
    dead = health.functionally_dead(runs)
    used = runs[dead.notna()]
    cells = pd.DataFrame({"rate": np.log(used[RATE].astype(float)), "by": np.log(used[column].astype(float))})
    if min(cells.nunique()) < 2:
        raise InputError([f"{column}: an exponent takes two values of it, and two rates, or more"])
    groups = dead[used.index].astype(float).groupby([cells["rate"], cells["by"]])
    counts = pd.DataFrame({"died": groups.sum(), "finished": groups.count()})
    rate, by = (counts.index.get_level_values(name).to_numpy(float) for name in ("rate", "by"))
    died, finished = counts["died"].to_numpy(float), counts["finished"].to_numpy(float)
    unit = float(np.ptp(rate)) + MOST * float(np.ptp(by))
    exponents = np.linspace(-MOST, MOST, 161)
    height = np.array([_highest((rate - b * (by - by.mean())) / unit, died, finished) for b in exponents])
    top = exponents[height >= height.max() - 1e-3]
    held = np.flatnonzero(height >= height.max() - CUTOFF)
    low = _crossing(exponents, height - height.max() + CUTOFF, held[0], -1)
    high = _crossing(exponents, height - height.max() + CUTOFF, held[-1], 1)
    return Estimate(float((top[0] + top[-1]) / 2), low, high, len(used), "runs", tested=(-MOST, MOST))


def _highest(x: Floats, died: Floats, finished: Floats) -> float:
    """The highest penalised log-likelihood of a logistic curve that rises with x."""

    def height(middle: Floats, log_slope: Floats) -> Floats:
        z = np.exp(log_slope)[..., None] * (x - middle[..., None])
        tail = np.exp(-np.abs(z))
        weight = finished * tail / (1 + tail) ** 2
        total = weight.sum(axis=-1)
        centre = (weight @ x) / total
        spread = (weight * (x - centre[..., None]) ** 2).sum(axis=-1)
        likelihood = z @ died - (np.maximum(z, 0) + np.log1p(tail)) @ finished
        return np.asarray(likelihood + np.log(total * spread) / 2)

    middles, log_slopes = np.linspace(x.min(), x.max(), 41), np.linspace(0, 9, 37)
    with np.errstate(divide="ignore", invalid="ignore"):
        coarse = np.nan_to_num(height(middles[:, None], log_slopes[None, :]), nan=-np.inf)
        best = np.unravel_index(int(coarse.argmax()), coarse.shape)
        start = np.array([middles[best[0]], log_slopes[best[1]]])
        simplex = start + np.array([[0, 0], [np.ptp(x) / 40, 0], [0, 0.25]])
        found = optimize.minimize(
            lambda place: -float(height(place[0], place[1])),
            start,
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "fatol": 1e-4, "xatol": 1e-3},
        )
    return max(float(coarse.max()), -float(found.fun))


def _crossing(places: Floats, above: Floats, inner: int, step: int) -> float:
    """Where a profile falls below its cutoff outwards of a place, infinite beyond the last place."""
    outer = inner + step
    if not 0 <= outer < len(places):
        return math.copysign(math.inf, step)
    part = above[inner] / (above[inner] - above[outer])
    return float(places[inner] + part * (places[outer] - places[inner]))
