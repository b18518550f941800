"""Time to an event: how many runs are still without it, how sure that is, and whether groups of runs differ.

A death is found at a check, so the event lies in (last live check, check] and is dated to the check that found it.
Where all runs are checked at the same steps the curve is, at those steps, the nonparametric maximum-likelihood estimate
for interval-censored data; between them it is an upper bound. Compare runs of one `train.check_every` only.

Divergence competes with death: a run that diverged can no longer die. It is held among the runs without the event until
its planned end, as a subdistribution wants it (Gray 1988, for known ends), so 1 - share is the cumulative incidence of
death, as `cumulative_incidence` gives it too. Failed, running and pending runs have no time and no part in it.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.sparse.csgraph import connected_components

from analysis.frames.columns import demand
from analysis.frames.events import EVENTS
from analysis.statistics.estimates import LEVEL, NORMAL, Estimate
from harness.located import InputError
from harness.patterns import suggestion

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Against = Literal["step", "cumulative_lr"]
AGAINST: dict[Against, str] = {
    "step": "step (updates of the weights)",
    "cumulative_lr": "cumulative learning rate",
}
"""What time can be measured in, and how a figure labels it."""
CAUSES = ("event", "competing")
"""The ends of `times` that compete; the third is "censored"."""
_READ = ["optim/cumulative_lr", "optim/lr"]


def times(runs: pd.DataFrame, rows: pd.DataFrame | None = None, against: Against = "step") -> pd.DataFrame:
    """When each finished run died (or collapsed), or until when it is known not to have.

    Index: that of `runs`, a frame of `load`. Columns: `run_id`; `time`, of the check that found the death, of the
    divergence, or of the last look; `since`, the last time at which the run was seen alive; `end`, one of event,
    competing (diverged) and censored; `held`, the time until which the run counts as one that can have the event:
    `time`, or the planned end of a run that diverged (the longest run's of the frame where epochs are configured).

    `against` is the unit: steps, or the sum of the learning rates of the updates until then, which takes `rows`, a
    frame of `load_rows`. Raises InputError where these lack a column, a run its readings, and where none has finished.
    """
    outcome = runs["outcome"]
    ends = np.where(outcome.isin(EVENTS), "event", np.where(outcome == "diverged", "competing", "censored"))
    return _table(runs, ends, runs["outcome_step"], runs["outcome_last_live_step"], rows, against)


def reached(
    runs: pd.DataFrame, rows: pd.DataFrame, metric: str, target: float, against: Against = "step"
) -> pd.DataFrame:
    """When a metric of each finished run first was at least `target`, as times like those of `times`.

    A reading finds it; `since` is the reading before. A run that died or diverged before can no longer get there
    (`competing`); others are censored at their last step. Raises InputError for a metric that no row has, and as
    `times` does, and ValueError for a target that is no number.
    """
    demand(rows, metric)
    if math.isnan(target):
        raise ValueError("the target is nan")
    read = rows.loc[rows[metric].notna(), ["run_id", "step", metric]]
    first = read[read[metric] >= target].groupby("run_id")["step"].min()
    step = runs["run_id"].map(first)
    before = read[read["step"] < read["run_id"].map(first).fillna(np.inf)].groupby("run_id")["step"].max()
    ended = np.where(runs["outcome"] == "survived", "censored", "competing")
    last = runs["outcome_step"].where(step.isna(), step)
    return _table(runs, np.where(step.notna(), "event", ended), last, runs["run_id"].map(before), rows, against)


def _table(
    runs: pd.DataFrame,
    ends: NDArray[Any],
    step: pd.Series[Any],
    since: pd.Series[Any],
    rows: pd.DataFrame | None,
    against: Against,
) -> pd.DataFrame:
    finished = runs["state"] == "finished"
    if not finished.any():
        raise InputError([f"no finished run among these {len(runs)}, so no time to an event"])
    longest = float(runs["last_step"].max()) if runs["last_step"].notna().any() else math.nan
    planned = pd.to_numeric(runs["train.steps"]).fillna(longest).clip(lower=step.astype(float))
    table = pd.DataFrame({"run_id": runs["run_id"], "end": ends, "time": step, "since": since, "planned": planned})
    table = table[finished].astype({"time": float, "since": float, "planned": float})
    if against == "cumulative_lr":
        clock = _cumulative_lr(table["run_id"], rows)
        for column in ("time", "since", "planned"):
            table[column] = [clock(run, step) for run, step in zip(table["run_id"], table[column], strict=True)]
    table["held"] = table["planned"].where(table["end"] == "competing", table["time"])
    return table[["run_id", "time", "since", "end", "held"]]


def _cumulative_lr(run_ids: pd.Series[str], rows: pd.DataFrame | None) -> Callable[[str, float], float]:
    """The cumulative learning rate of a run at a step: between two readings on a line, after the last at its rate."""
    if rows is None:
        raise InputError(["times against the cumulative learning rate take the rows of the runs"])
    demand(rows, *_READ)
    read = rows.loc[rows["run_id"].isin(run_ids), ["run_id", "step", *_READ]].dropna()
    of_run = {str(run): part.to_numpy(dtype=np.float64) for run, part in read.set_index("run_id").groupby(level=0)}
    missing = [run for run in run_ids if run not in of_run]
    if missing:
        raise InputError([f"no reading of {_READ[0]} in the rows of run {run}" for run in missing])

    def clock(run: str, step: float) -> float:
        steps, sums, rates = of_run[run].T
        if step <= steps[-1]:
            return float(np.interp(step, steps, sums))
        return float(sums[-1] + rates[-1] * (step - steps[-1]))

    return clock


@dataclass(frozen=True, eq=False)
class Curve:
    """A step function of time with its pointwise 95 % band, from n runs of which `events` had the event.

    time, share, low, high: (T,), from time 0 on; each value holds from its time to the next. share is in [0, 1]: of
    the runs without the event, or, of a cumulative incidence, of those with it. at_risk: runs that were followed to
    just before the time, (T,).
    """

    time: Floats
    share: Floats
    low: Floats
    high: Floats
    at_risk: NDArray[np.int64]
    n: int
    events: int

    def at(self, time: float) -> Estimate:
        """The share at a time >= 0; ValueError for another."""
        if not time >= 0:
            raise ValueError(f"a curve begins at time 0; found {time:g}")
        place = int(np.searchsorted(self.time, time, side="right")) - 1
        return Estimate(float(self.share[place]), float(self.low[place]), float(self.high[place]), self.n)


def kaplan_meier(time: ArrayLike, happened: ArrayLike) -> Curve:
    """Share of runs without the event against time, by Kaplan and Meier: `scipy.stats.ecdf`.

    `time` (n,) >= 0 and `happened` (n,), whether the event came then; else the run was followed to then without it.
    The band is Greenwood's on the scale of log(-log(share)). Where that is undefined (share 1 or 0) it is the exact
    binomial one, so that a few survivors do not look like certainty. Raises ValueError for no runs, and for times and
    events that are none.
    """
    when, events = _checked(time, happened)
    found = stats.ecdf(stats.CensoredData(uncensored=when[events], right=when[~events])).sf
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # the band is undefined at 0 and 1
        band = found.confidence_interval(LEVEL, method="log-log")
    columns = np.stack([found.quantiles, found.probabilities, band.low.probabilities, band.high.probabilities])
    if when.min() > 0:
        columns = np.column_stack([[0, 1, np.nan, np.nan], columns])
    moments, share, low, high = columns
    at_risk = numbers_at_risk(when, moments)
    return _filled(Curve(moments, share, low, high, at_risk, len(when), int(events.sum())))


def cumulative_incidence(time: ArrayLike, end: ArrayLike, cause: str) -> Curve:
    """Share of runs whose first end was `cause`, against time, by Aalen and Johansen.

    `time` (n,) and `end` (n,): "censored", or one of the causes that compete, those of `times` or other words. The band
    is of log(-log(share)) with the delta-method variance (Marubini and Valsecchi 1995, section 10.2); where that is
    undefined, the exact binomial one. Raises ValueError for no runs, for times and ends that are none, and for a cause
    by which no run ended, those of `times` apart.
    """
    causes = _ends(end, cause)
    when, ended = _checked(time, causes != "censored")
    moments = np.unique(np.concatenate([[0.0], when[ended], [when.max()]]))
    at_risk = numbers_at_risk(when, moments)
    deaths = _count(when[ended], moments)
    own = _count(when[causes == cause], moments)
    before = np.concatenate([[1.0], np.cumprod(1 - deaths / at_risk)[:-1]])
    share = np.cumsum(before * own / at_risk)
    share[share > 1 - 1e-12] = 1.0  # a sum of parts of one
    gap = np.tril(share[:, None] - share)  # share now less share then
    left = np.where(at_risk > deaths, at_risk - deaths, 1)  # nobody left: the gap is 0 ever after
    variance = (
        gap**2 @ (deaths / at_risk / left)
        + np.cumsum(before**2 * own * (at_risk - own) / at_risk**3)
        - 2 * gap @ (before * own / at_risk**2)
    )
    with np.errstate(all="ignore"):
        spread = NORMAL * np.sqrt(np.maximum(variance, 0)) / np.abs(share * np.log(share))
        low, high = share ** np.exp(spread), share ** np.exp(-spread)
    return _filled(Curve(moments, share, low, high, at_risk, len(when), int(own.sum())))


def numbers_at_risk(time: ArrayLike, moments: ArrayLike) -> NDArray[np.int64]:
    """How many of the runs, followed to `time` (n,), were followed to each moment (T,) or beyond: (T,).

    Raises ValueError for times that are none.
    """
    when = _times(time)
    return np.asarray(len(when) - np.searchsorted(np.sort(when), moments, side="left"), dtype=np.int64)


def _checked(time: ArrayLike, happened: ArrayLike) -> tuple[Floats, Bools]:
    """Times and events as arrays; ValueError for what is no time or no event."""
    when, events = _times(time), _mask(happened, "whether the event came")
    if when.ndim != 1 or when.shape != events.shape:
        raise ValueError(f"expected one time and one event for each run, found shapes {when.shape} and {events.shape}")
    if not len(when):
        raise ValueError("no finished run")
    return when, events


def _times(time: ArrayLike) -> Floats:
    """Times as numbers; numpy would take text, dates and truth values for some."""
    found = np.asarray(time)
    try:
        when = found.astype(np.float64)
    except TypeError as error:
        raise ValueError(f"times must be numbers: {error}") from None
    if found.dtype.kind not in "iufO":
        raise ValueError(f"times must be numbers; found the type {found.dtype}")
    if not (np.isfinite(when).all() and (when >= 0).all()):
        raise ValueError("times must be finite and not negative")
    return when


def _mask(values: ArrayLike, what: str) -> Bools:
    """Truth values as booleans; numpy would take NaN, 2 and the text "False" for true."""
    found = list(np.ravel(np.asarray(values, dtype=object)))
    for each in found:
        if not (isinstance(each, bool | np.bool_ | int | float | np.number) and each in (0, 1)):
            raise ValueError(f"{what} must be true or false (1 or 0); found {each!r}")
    return np.asarray(values).astype(np.bool_)


def _numbered(values: ArrayLike, what: str, n: int) -> tuple[NDArray[np.int64], pd.Index[Any]]:
    """The number of each run's label, (n,), and the labels in order; a missing one would be a label of its own."""
    labels = pd.Series(np.asarray(values, dtype=object))
    if len(labels) != n:
        raise ValueError(f"expected a {what} for each of {n} runs, found {len(labels)}")
    if labels.isna().any():
        raise ValueError(f"a {what} is missing; found {labels[labels.isna()].iloc[0]!r}")
    place, found = pd.factorize(labels.infer_objects(), sort=True)
    return place, found


def _ends(end: ArrayLike, cause: str) -> NDArray[np.object_]:
    """The ends of runs; ValueError for one that is no word, for a misspelt "censored", and for a cause that is none."""
    ends = np.asarray(end, dtype=object)
    for each in ends:
        if not isinstance(each, str):
            raise ValueError(f"an end must be 'censored' or a cause, in words; found {each!r}")
    causes = set(ends) - {"censored"}
    for each in sorted(causes):
        if difflib.get_close_matches(each.lower().strip(), ["censored"], cutoff=0.8):
            raise ValueError(f"found the end {each!r}; did you mean 'censored'?")
    allowed = sorted(causes | set(CAUSES if causes <= set(CAUSES) else ()))
    if cause not in allowed:
        raise ValueError(f"no run can have ended by {cause!r}{suggestion(str(cause), allowed)}")
    return ends


def _count(when: Floats, moments: Floats) -> Floats:
    """How many of `when` lie at each of the moments, which hold them all."""
    return np.bincount(np.searchsorted(moments, when), minlength=len(moments)).astype(np.float64)


def _filled(curve: Curve) -> Curve:
    """The curve with the exact binomial band (Clopper and Pearson's) where its share is 0 or 1 and there is none.

    Before the first event it is that of the runs at risk, after the last run's that of all runs with the event.
    """
    share = curve.share
    counts = np.where(share == share[-1], curve.events, curve.at_risk) if curve.events else curve.at_risk
    reach = ((1 - LEVEL) / 2) ** (1 / np.maximum(counts, 1))
    none, every = share <= 0, share >= 1
    low = np.where(none, 0.0, np.where(every, reach, curve.low))
    high = np.where(every, 1.0, np.where(none, 1 - reach, curve.high))
    return replace(curve, low=low, high=high)


def median(curve: Curve) -> Estimate:
    """The time by which half of the runs had the event; infinite where fewer had (Brookmeyer and Crowley 1982).

    `curve` is one of `kaplan_meier`. An infinite end of the interval lies beyond the time to which runs were followed.
    """

    def first(share: Floats) -> float:
        below = share <= 0.5
        return float(curve.time[below.argmax()]) if below.any() else math.inf

    return Estimate(first(curve.share), first(curve.low), first(curve.high), curve.n)


def restricted_mean(time: ArrayLike, happened: ArrayLike, until: float) -> Estimate:
    """Mean time without the event within the first `until`: the area under the Kaplan-Meier curve.

    With Greenwood's variance and a normal interval; no interval where no event or no second run tells of a spread.
    Raises ValueError for an `until` beyond the time to which the runs were followed, or not positive.
    """
    value, variance, n, events = _restricted(time, happened, until)
    if n < 2 or events == 0:
        return Estimate(value, math.nan, math.nan, n, note="one run" if n < 2 else "no event, so no spread")
    half = NORMAL * math.sqrt(variance)
    return Estimate(value, max(0.0, value - half), min(until, value + half), n)


def restricted_mean_difference(time: ArrayLike, happened: ArrayLike, treated: ArrayLike, until: float) -> Estimate:
    """The restricted mean of the `treated` runs, a mask (n,), less that of the others; positive where they last longer.

    Raises ValueError as `restricted_mean` does, for either group, and for a mask that is none.
    """
    (when, events), first = _checked(time, happened), _mask(treated, "whether a run was treated")
    if first.shape != when.shape:
        raise ValueError(f"expected a mask of {len(when)} runs, found shape {first.shape}")
    value, variance, n, deaths = _restricted(when[first], events[first], until)
    other, other_variance, other_n, other_deaths = _restricted(when[~first], events[~first], until)
    if min(n, other_n) < 2 or deaths + other_deaths == 0:
        note = "one run in a group" if min(n, other_n) < 2 else "no event, so no spread"
        return Estimate(value - other, math.nan, math.nan, n + other_n, note=note)
    half = NORMAL * math.sqrt(variance + other_variance)
    return Estimate(value - other, value - other - half, value - other + half, n + other_n)


def _restricted(time: ArrayLike, happened: ArrayLike, until: float) -> tuple[float, float, int, int]:
    """Restricted mean, its variance, runs, and events within the time."""
    curve = kaplan_meier(time, happened)
    followed = math.inf if curve.share[-1] == 0 else float(curve.time[-1])
    if not 0 < until <= followed:
        raise ValueError(f"until = {until:g} is not between 0 and {followed:g}, the time to which runs were followed")
    inside = curve.time < until
    widths = np.diff(np.append(curve.time[inside], until))
    areas = np.cumsum((curve.share[inside] * widths)[::-1])[::-1]  # under the curve, from each time on
    when, events = _checked(time, happened)
    deaths = _count(when[events & (when < until)], curve.time[inside])
    at_risk = curve.at_risk[inside]
    left = np.where(at_risk > deaths, at_risk - deaths, 1)  # nobody left: no area either
    return float(areas[0]), float((areas**2 * deaths / at_risk / left).sum()), curve.n, int(deaths.sum())


@dataclass(frozen=True, eq=False)
class LogRank:
    """Whether groups differ in when the event comes. groups: runs `n`, events `observed`, and events `expected` if not.

    p is NaN where nothing can be compared (fewer than two groups, or no event among runs that had company); note: why.
    """

    statistic: float
    freedom: int
    p: float
    groups: pd.DataFrame
    note: str = ""

    def __str__(self) -> str:
        n = ", ".join(map(str, self.groups["n"]))
        if math.isnan(self.p):
            return f"no comparison ({self.note}; n = {n} runs)"
        return f"log-rank chi² = {self.statistic:.2f} on {self.freedom} df, p = {self.p:.2g} (n = {n} runs)"


def logrank(time: ArrayLike, happened: ArrayLike, group: ArrayLike, stratum: ArrayLike | None = None) -> LogRank:
    """The log-rank test of k groups; for two groups its statistic is the square of `scipy.stats.logrank`'s.

    `time`, `happened` and `group` (n,). With `stratum` (n,), such as the cell of a sweep, runs are compared within
    strata only. Mantel's hypergeometric variance, so ties are allowed. Raises ValueError for no runs, for times and
    events that are none, and for a group or stratum that is missing.
    """
    when, events = _checked(time, happened)
    place, labels = _numbered(group, "group", len(when))
    strata = np.zeros(len(when)) if stratum is None else _numbered(stratum, "stratum", len(when))[0]
    k = len(labels)
    observed, expected, variance = np.zeros(k), np.zeros(k), np.zeros((k, k))
    for number in np.unique(strata):
        inside = strata == number
        found = _observed_expected(when[inside], events[inside], place[inside], k)
        observed, expected, variance = observed + found[0], expected + found[1], variance + found[2]
    table = pd.DataFrame(
        {"n": np.bincount(place, minlength=k), "observed": observed.astype(int), "expected": expected}, index=labels
    )
    told = _told_apart(variance)
    if not len(told):
        note = "one group" if k < 2 else "no event" if not events.any() else "no event in company of another group"
        return LogRank(math.nan, 0, math.nan, table, note)
    excess = (observed - expected)[told]
    statistic = float(excess @ np.linalg.solve(variance[np.ix_(told, told)], excess))
    return LogRank(statistic, len(told), float(stats.chi2.sf(statistic, len(told))), table)


def _told_apart(variance: Floats) -> NDArray[np.int64]:
    """The groups whose excess of events is not fixed by those of others: all but one of each set that had company.

    As many as the covariance's rank, which its eigenvalues give by rounding only.
    """
    of_set = connected_components(variance, directed=False)[1]
    return np.setdiff1d(np.arange(len(variance)), np.unique(of_set, return_index=True)[1])


def _observed_expected(when: Floats, events: Bools, place: NDArray[Any], k: int) -> tuple[Floats, Floats, Floats]:
    """Events of each group, those expected if all groups had one hazard, and the covariance of the latter: (k, k)."""
    moments = np.unique(when[events])
    at_risk = np.stack([numbers_at_risk(when[place == group], moments) for group in range(k)]).astype(np.float64)
    deaths = np.stack([_count(when[events & (place == group)], moments) for group in range(k)])
    total, died = at_risk.sum(0), deaths.sum(0)
    part = at_risk / total
    scale = died * (total - died) / np.maximum(total - 1, 1)
    variance = np.diag((part * scale).sum(1)) - (part * scale) @ part.T
    return deaths.sum(1), (part * died).sum(1), variance
