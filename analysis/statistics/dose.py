"""The lethal dose: the filter count, learning rate or residual scale at which half of the runs die.

A logistic model in the logarithm of the dose, P(death) = 1 / (1 + exp(-slope * (log dose - middle))) with slope >= 0,
fitted with Firth's penalty (1993), which is Jeffreys' prior: under complete separation, where every run up to some dose
survives and every one above it dies, it stays finite. Intervals are those of the penalised profile likelihood (Heinze
and Schemper 2002). What they leave open, and what lies beyond the doses tested, is said and not extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.frames.columns import demand
from analysis.frames.events import EVENTS
from analysis.statistics.estimates import NORMAL, Estimate, wilson
from harness.located import InputError

Floats = NDArray[np.float64]
CUTOFF = NORMAL**2 / 2
"""How far below its maximum the log-likelihood may lie at what the 95 % interval holds: half of chi²(1)'s quantile."""
_INSIDE, _OUTSIDE, _BETWEEN = 161, 40, 14
"""Lethal doses that the profile tries within the range tested, on either side of it, and between two to refine it."""
_LOG_SLOPES, _STEP = np.linspace(math.log(1e-6), math.log(1e4), 48, retstep=True)
"""Slopes that it tries for each, per range tested."""
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
        return self.estimate.tested

    @property
    def located(self) -> bool:
        """Whether the value lies within the range tested."""
        return self.estimate.located

    def share(self, dose: ArrayLike) -> Floats:
        """The fitted share of runs that die, at positive doses."""
        scaled = self.slope * (np.log(np.asarray(dose, dtype=np.float64)) - self.middle)
        return np.exp(-np.logaddexp(0, -scaled))

    def __str__(self) -> str:
        lowest, highest = self.tested
        return f"{self.estimate}, at {len(self.doses)} doses from {lowest:.4g} to {highest:.4g}"


def lethal_dose(
    runs: pd.DataFrame, column: str, rising: bool = True, dead: pd.Series[bool] | None = None
) -> LethalDose:
    """The lethal value of a numeric column, such as `prepool/units`, `optim.lr` or `model.residual_scale`.

    Every finished run counts once; one that diverged has not died. `rising` is an assumption: that a higher dose kills
    no less (false: no more); where the runs speak against it, the note says so. Runs without a positive number there (a
    list of scales, `learned`, 0) are left out, which the note counts. Raises InputError for a column that the frame
    lacks, and where fewer than two doses were tested. `dead` says who counts as dead, by the frame's index, where that
    is not who had an event, such as `health.functionally_dead`; where it is missing, the run is left out.
    """
    demand(runs, column)
    finished = runs[runs["state"] == "finished"]
    dose = pd.to_numeric(finished[column], errors="coerce").astype(float)
    fate = (finished["outcome"].isin(EVENTS) if dead is None else dead.loc[finished.index]).astype("boolean")
    usable = np.isfinite(dose) & (dose > 0) & fate.notna()
    doses = np.unique(dose[usable])
    if len(doses) < 2:
        there = ", ".join(f"{value:g}" for value in doses) or "none"
        raise InputError([f"{column}: a lethal value takes finished runs at two positive ones or more; found: {there}"])
    place = np.searchsorted(doses, dose[usable])
    died = fate[usable].astype(bool)
    left_out = int((~usable).sum())
    lacking = f"a positive {column}" if dead is None else f"a positive {column} and an end"
    notes = [f"{left_out} runs without {lacking} left out"] if left_out else []
    return fit(doses, np.bincount(place, weights=died), np.bincount(place), rising, notes)


def fit(
    dose: ArrayLike, died: ArrayLike, finished: ArrayLike, rising: bool = True, notes: Iterable[str] = ()
) -> LethalDose:
    """The lethal dose from counts at J >= 2 positive doses, (J,): runs that `died` among the `finished` ones.

    Raises ValueError for doses and counts that are none.
    """
    doses = pd.DataFrame({"dose": dose, "died": died, "finished": finished}, dtype=float).sort_values("dose")
    doses = doses.reset_index(drop=True)
    _check(*doses.to_numpy().T)
    doses["share"] = doses["died"] / doses["finished"]
    intervals = [wilson(int(events), int(n)) for events, n in zip(doses["died"], doses["finished"], strict=True)]
    doses["low"], doses["high"] = zip(*intervals, strict=True)

    sign = 1 if rising else -1
    ordered = doses.iloc[::sign]
    x = sign * np.log(ordered["dose"].to_numpy())
    start, span = x[0], x[-1] - x[0]
    unit = (x - start) / span
    counts = ordered["died"].to_numpy(), ordered["finished"].to_numpy()
    middles, height, slopes = _refined(partial(_profile, unit, *counts))
    peak, top = _peak(middles, height)
    opposite = _profile(1 - unit, *counts, middles[::4])[0].max()  # the same model with slope <= 0
    notes = [*notes, *_remarks(ordered, opposite > top + CUTOFF, rising)]
    tested = float(doses["dose"].iloc[0]), float(doses["dose"].iloc[-1])

    def in_doses(place: float) -> float:
        """Within the range tested, which rounding may leave, or 0 or infinite beyond it."""
        log = sign * (start + span * place)
        return float(np.clip(np.exp(log), *tested)) if math.isfinite(log) else max(0.0, float(log))

    low, high = sorted(map(in_doses, _interval(middles, height - top)))
    value = in_doses(peak if 0 <= peak <= 1 else math.copysign(math.inf, peak))
    return LethalDose(
        Estimate(value, low, high, int(doses["finished"].sum()), note="; ".join(notes), tested=tested),
        doses,
        slope=sign * float(slopes[height.argmax()]) / span,
        middle=sign * float(start + span * peak),
    )


def _check(dose: Floats, died: Floats, finished: Floats) -> None:
    """Refuse doses and counts that are none."""
    if not (len(dose) and dose[0] > 0 and dose[0] < dose[-1] < math.inf):
        raise ValueError(f"doses must be positive and finite, and two at least; found {dose.tolist()}")
    whole = (died == np.floor(died)) & (finished == np.floor(finished))
    if not (whole & (died >= 0) & (finished >= died) & (finished > 0)).all():
        raise ValueError(
            "at each dose a whole number of runs must have died, of those that finished, one at least; "
            f"found {died.tolist()} of {finished.tolist()}"
        )


def _profile(x: Floats, died: Floats, finished: Floats, middles: Floats) -> tuple[Floats, Floats]:
    """The penalised log-likelihood of each lethal dose at the slope >= 0 that suits it best, and that slope: (M,) both.

    `x`, (J,), is in [0, 1]. The likelihood can have two peaks over the logarithm of the slope: the two highest of a
    coarse grid are searched by golden section, each between its neighbours.
    """
    squares = (x[:, None] - x) ** 2 / 2

    def height(middle: Floats, log_slope: Floats) -> Floats:
        """Of lethal doses and slopes that broadcast to one shape."""
        z = np.exp(log_slope)[..., None] * (x - middle[..., None])
        tail = np.exp(-np.abs(z))
        likelihood = z @ died - (np.maximum(z, 0) + np.log1p(tail)) @ finished
        weight = finished * tail / (1 + tail) ** 2
        information = ((weight @ squares) * weight).sum(axis=-1)  # the determinant, of intercept and slope
        return np.asarray(likelihood + np.log(information) / 2)

    with np.errstate(divide="ignore"):
        coarse = np.pad(height(middles[:, None], _LOG_SLOPES), ((0, 0), (1, 1)), constant_values=-np.inf)
        inner = coarse[:, 1:-1]
        peaks = np.where((inner >= coarse[:, :-2]) & (inner >= coarse[:, 2:]), inner, -np.inf)
        starts = _LOG_SLOPES[np.argsort(peaks, axis=1)[:, -2:]]
        low, high = starts - _STEP, starts + _STEP
        middle = np.broadcast_to(middles[:, None], starts.shape)
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        at_left, at_right = height(middle, left), height(middle, right)
        for _ in range(22):
            up = at_right > at_left
            low, high = np.where(up, left, low), np.where(up, high, right)
            new = np.where(up, low + _GOLDEN * (high - low), high - _GOLDEN * (high - low))
            at_new = height(middle, new)
            left, right = np.where(up, right, new), np.where(up, new, left)
            at_left, at_right = np.where(up, at_right, at_new), np.where(up, at_new, at_left)
    best = np.maximum(at_left, at_right).argmax(axis=1)[:, None]
    log_slope, found = (
        np.take_along_axis(np.where(at_right > at_left, *pair), best, axis=1)[:, 0]
        for pair in ((right, left), (at_right, at_left))
    )
    return found, np.exp(log_slope)


def _refined(profile: Callable[[Floats], tuple[Floats, Floats]]) -> tuple[Floats, Floats, Floats]:
    """Lethal doses, in order, with the profile's heights and slopes: dense around the peak and the interval's ends."""
    far = np.geomspace(1e-3, 1e3, _OUTSIDE)
    middles = np.concatenate([-far[::-1], np.linspace(0, 1, _INSIDE), 1 + far])
    height, slopes = profile(middles)
    for _ in range(2):
        best, held = int(height.argmax()), np.flatnonzero(height >= height.max() - CUTOFF)
        pairs = np.array([(best - 1, best), (best, best + 1), (held[0] - 1, held[0]), (held[-1], held[-1] + 1)])
        ends = middles[pairs.clip(0, len(middles) - 1)]
        new = np.setdiff1d(np.linspace(ends[:, 0], ends[:, 1], _BETWEEN), middles)
        place = np.searchsorted(middles, new)
        middles = np.insert(middles, place, new)
        height, slopes = (np.insert(old, place, more) for old, more in zip((height, slopes), profile(new), strict=True))
    return middles, height, slopes


def _peak(middles: Floats, height: Floats) -> tuple[float, float]:
    """Where the profile is highest, and how high, by a parabola through three points; or the middle of a flat top."""
    flat = middles[(height >= height.max() - 1e-9) & (middles >= 0) & (middles <= 1)]
    if len(flat) > 3:
        return float(flat[[0, -1]].mean()), float(height.max())
    best = int(height.argmax())
    if not 0 < best < len(middles) - 1:
        return float(middles[best]), float(height[best])
    before, after = middles[best] - middles[best - 1], middles[best + 1] - middles[best]
    rise, fall = (height[best] - height[best - 1]) / before, (height[best] - height[best + 1]) / after
    if not rise + fall > 0:
        return float(middles[best]), float(height[best])
    bend = (rise + fall) / (before + after)
    slope = (rise * after - fall * before) / (before + after)
    return float(middles[best] + slope / (2 * bend)), float(height[best] + slope**2 / (4 * bend))


def _interval(middles: Floats, below: Floats) -> tuple[float, float]:
    """Ends of the 95 % interval, infinite beyond [0, 1], from how far the profile is `below` its peak (as <= 0)."""
    above = below + CUTOFF
    held = np.flatnonzero(above >= 0)

    def crossing(place: int, outer: int) -> float:
        """Where the profile crosses the cutoff between a place that it holds and the next one outwards."""
        if not 0 <= outer < len(middles):
            return math.copysign(math.inf, outer)
        part = above[place] / (above[place] - above[outer])
        return float(middles[place] + part * (middles[outer] - middles[place]))

    low, high = crossing(held[0], held[0] - 1), crossing(held[-1], held[-1] + 1)
    return (-math.inf if low < 0 else min(low, 1.0)), (math.inf if high > 1 else max(high, 0.0))


def _remarks(doses: pd.DataFrame, contradicted: bool, rising: bool) -> Iterable[str]:
    """What is unusual about counts that are ordered from the dose taken for least lethal to the most lethal."""
    share = doses["share"].to_numpy()
    if share.min() == share.max() and share[0] in (0, 1):
        yield "every run died" if share[0] == 1 else "no run died"
    elif set(share) == {0.0, 1.0} and (np.diff(share) >= 0).all():
        yield "complete separation"
    if contradicted:
        yield f"against the assumption, death {'falls' if rising else 'rises'} with the dose"
