"""The lethal dose: the filter count, learning rate or residual scale at which half of the runs die.

A logistic model in the logarithm of the dose, P(death) = 1 / (1 + exp(-slope * (log dose - middle))) with slope >= 0,
fitted with Firth's penalty (1993), which is Jeffreys' prior: under complete separation, where every run up to some dose
survives and every one above it dies, it stays finite. Intervals are those of the penalised profile likelihood (Heinze
and Schemper 2002). What they leave open, and what lies beyond the doses tested, is said and not extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.frames.columns import demand
from analysis.frames.events import EVENTS
from analysis.statistics.estimates import NORMAL, Estimate, wilson
from harness.located import InputError

Floats = NDArray[np.float64]
_CUTOFF = NORMAL**2 / 2
"""How far below its maximum the log-likelihood may lie at what the 95 % interval holds: half of chi²(1)'s quantile."""
_INSIDE, _OUTSIDE = 241, 40
"""Lethal doses that the profile tries within the range tested, and on either side of it."""
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class LethalDose:
    """The dose at which half of the runs die, in the unit of the dose.

    estimate: a value or an end of its 95 % interval that lies beyond the doses tested is 0 or infinite; n counts runs.
    doses: one row a dose tested, from the lowest: `dose`, runs that `died`, `finished` runs, their `share`, and `low`
        and `high`, its 95 % Wilson interval.
    slope, middle: of the fitted curve, against the natural logarithm of the dose; negative where death falls with the
        dose. The middle may lie beyond the range.
    """

    estimate: Estimate
    doses: pd.DataFrame
    slope: float
    middle: float

    @property
    def tested(self) -> tuple[float, float]:
        """The lowest and the highest dose tested."""
        return float(self.doses["dose"].iloc[0]), float(self.doses["dose"].iloc[-1])

    @property
    def located(self) -> bool:
        """Whether the value lies within the range tested."""
        return 0 < self.estimate.value < math.inf

    def share(self, dose: ArrayLike) -> Floats:
        """The fitted share of runs that die, at positive doses."""
        scaled = self.slope * (np.log(np.asarray(dose, dtype=np.float64)) - self.middle)
        return np.exp(-np.logaddexp(0, -scaled))

    def __str__(self) -> str:
        lowest, highest = (f"{dose:.4g}" for dose in self.tested)
        value, low, high = self.estimate.value, self.estimate.low, self.estimate.high
        n = f"n = {self.estimate.n} runs at {len(self.doses)} doses from {lowest} to {highest}"
        n += f"; {self.estimate.note}" if self.estimate.note else ""
        if low == 0 and high == math.inf:
            return f"not located: open on both sides of the range tested ({n})"
        where = f"{value:.4g}" if self.located else "beyond the range tested: "
        if not self.located:
            where += f"below {lowest}" if value == 0 else f"above {highest}"
        start = f"{low:.4g}" if low > 0 else f"below {lowest}, open,"
        end = f"{high:.4g}" if high < math.inf else f"above {highest}, open"
        return f"{where} (95 % interval {start} to {end}; {n})"


def lethal_dose(runs: pd.DataFrame, column: str, rising: bool = True) -> LethalDose:
    """The lethal value of a numeric column, such as `prepool/units`, `optim.lr` or `model.residual_scale`.

    Every finished run counts once; one that diverged has not died. `rising` is an assumption: that a higher dose kills
    no less (false: no more); where the runs speak against it, the note says so. Runs without a positive number there (a
    list of scales, `learned`, 0) are left out, which the note counts. Raises InputError for a column that the frame
    lacks, and where fewer than two doses were tested.
    """
    demand(runs, column)
    finished = runs[runs["state"] == "finished"]
    dose = pd.to_numeric(finished[column], errors="coerce").astype(float)
    usable = dose > 0
    doses = np.unique(dose[usable])
    if len(doses) < 2:
        there = ", ".join(f"{value:g}" for value in doses) or "none"
        raise InputError([f"{column}: a lethal value takes finished runs at two positive ones or more; found: {there}"])
    place = np.searchsorted(doses, dose[usable])
    died = finished.loc[usable, "outcome"].isin(EVENTS)
    left_out = int((~usable).sum())
    notes = [f"{left_out} runs without a positive {column} left out"] if left_out else []
    return fit(doses, np.bincount(place, weights=died), np.bincount(place), rising, notes)


def fit(
    dose: ArrayLike, died: ArrayLike, finished: ArrayLike, rising: bool = True, notes: Iterable[str] = ()
) -> LethalDose:
    """The lethal dose from counts at J >= 2 positive doses, (J,): runs that `died` among the `finished` ones."""
    doses = pd.DataFrame({"dose": dose, "died": died, "finished": finished}, dtype=float).sort_values("dose")
    doses = doses.reset_index(drop=True)
    doses["share"] = doses["died"] / doses["finished"]
    intervals = [wilson(int(events), int(n)) for events, n in zip(doses["died"], doses["finished"], strict=True)]
    doses["low"], doses["high"] = zip(*intervals, strict=True)

    sign = 1 if rising else -1
    ordered = doses.iloc[::sign]
    x = sign * np.log(ordered["dose"].to_numpy())
    start, span = x[0], x[-1] - x[0]
    unit = (x - start) / span
    counts = ordered["died"].to_numpy(), ordered["finished"].to_numpy()
    far = np.geomspace(1e-3, 1e3, _OUTSIDE)
    middles = np.concatenate([-far[::-1], np.linspace(0, 1, _INSIDE), 1 + far])
    height, slopes = _profile(unit, *counts, middles)
    low, value, high = (_dose(sign * (start + span * end)) for end in _interval(middles, height))
    opposite = _profile(1 - unit, *counts, middles[::4])[0].max()  # the same model with slope <= 0
    notes = [*notes, *_remarks(ordered, opposite > height.max() + _CUTOFF, rising)]
    best = int(height.argmax())
    return LethalDose(
        Estimate(value, min(low, high), max(low, high), int(doses["finished"].sum()), note="; ".join(notes)),
        doses,
        slope=sign * float(slopes[best]) / span,
        middle=sign * float(start + span * middles[best]),
    )


def _profile(x: Floats, died: Floats, finished: Floats, middles: Floats) -> tuple[Floats, Floats]:
    """The penalised log-likelihood of each lethal dose at the slope >= 0 that suits it best, and that slope: (M,) both.

    `x`, (J,), is in [0, 1]. Golden-section search in the logarithm of the slope, where the likelihood has one peak.
    """
    distance = x - middles[:, None]

    def height(log_slope: Floats) -> Floats:
        z = np.exp(log_slope)[:, None] * distance
        likelihood = -(died * np.logaddexp(0, -z) + (finished - died) * np.logaddexp(0, z)).sum(axis=1)
        tail = np.exp(-np.abs(z))
        weight = finished * tail / (1 + tail) ** 2
        total = weight.sum(axis=1)
        centre = (weight * x).sum(axis=1) / total
        information = total * (weight * (x - centre[:, None]) ** 2).sum(axis=1)  # of intercept and slope
        return np.asarray(np.nan_to_num(likelihood + np.log(information) / 2, nan=-np.inf))

    low, high = np.full(len(middles), math.log(1e-6)), np.full(len(middles), math.log(1e4))
    with np.errstate(all="ignore"):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        at_left, at_right = height(left), height(right)
        for _ in range(24):
            up = at_right > at_left
            low, high = np.where(up, left, low), np.where(up, high, right)
            new = np.where(up, low + _GOLDEN * (high - low), high - _GOLDEN * (high - low))
            at_new = height(new)
            left, right = np.where(up, right, new), np.where(up, new, left)
            at_left, at_right = np.where(up, at_right, at_new), np.where(up, at_new, at_left)
    return np.maximum(at_left, at_right), np.exp(np.where(at_right > at_left, right, left))


def _interval(middles: Floats, height: Floats) -> tuple[float, float, float]:
    """Lower end, peak and upper end of the profile, infinite where they lie beyond the range tested, [0, 1]."""
    inside = slice(_OUTSIDE, _OUTSIDE + _INSIDE)
    peak = float(middles[height.argmax()])
    value = peak if 0 <= peak <= 1 else math.copysign(math.inf, peak)
    where, above = middles[inside], height[inside] - height.max() + _CUTOFF
    held = np.flatnonzero(above >= 0)
    if not len(held):  # the whole interval is beyond the range
        return (-math.inf, value, 0.0) if value < 0 else (1.0, value, math.inf)

    def crossing(place: int, outer: int) -> float:
        """Where the profile crosses the cutoff between a place that it holds and the next one outwards."""
        if not 0 <= outer < _INSIDE:
            return math.copysign(math.inf, outer)
        part = above[place] / (above[place] - above[outer])
        return float(where[place] + part * (where[outer] - where[place]))

    first, last = int(held[0]), int(held[-1])
    return crossing(first, first - 1), value, crossing(last, last + 1)


def _dose(log_dose: float) -> float:
    return math.inf if log_dose == math.inf else math.exp(log_dose)


def _remarks(doses: pd.DataFrame, contradicted: bool, rising: bool) -> Iterable[str]:
    """What is unusual about counts that are ordered from the dose taken for least lethal to the most lethal."""
    share = doses["share"].to_numpy()
    if share.min() == share.max() and share[0] in (0, 1):
        yield "every run died" if share[0] == 1 else "no run died"
    elif set(share) == {0.0, 1.0} and (np.diff(share) >= 0).all():
        yield "complete separation"
    if contradicted:
        yield f"against the assumption, death {'falls' if rising else 'rises'} with the dose"
