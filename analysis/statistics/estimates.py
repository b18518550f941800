"""A number with its interval and the count it stands on, and what several such numbers may claim together."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from harness.located import InputError

LEVEL = 0.95
"""Coverage of every interval that does not say otherwise."""
POWER = 0.8
"""Probability with which a study finds an effect of the size that it is planned for."""
NORMAL = 1.959963984540054
"""Quantile of the standard normal distribution that leaves 2.5 % above it."""


@dataclass(frozen=True)
class Estimate:
    """A number, its interval, and n, the count of `unit`s (runs, seeds, ...) that it was made from.

    low, high: NaN where there is no interval. note: why, if anything is unusual. tested: the range within which the
    number can be found, such as the doses tested; of a number or an end beyond it only that is said. level: the
    interval's coverage.
    """

    value: float
    low: float
    high: float
    n: int
    unit: str = "runs"
    note: str = ""
    tested: tuple[float, float] = (-math.inf, math.inf)
    level: float = LEVEL

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def located(self) -> bool:
        """Whether the number lies within the range tested."""
        return self.tested[0] <= self.value <= self.tested[1]

    @property
    def counted(self) -> str:
        """Such as `n = 8 seeds`."""
        return f"n = {self.n} {self.unit.removesuffix('s') if self.n == 1 else self.unit}"

    @property
    def short(self) -> str:
        """Such as `0.12 (0.05 to 0.3)`, `295 (134 to above 1072)`, `295 (open on both sides)`, or the number alone."""
        return f"{self._number} ({self._interval})" if self.has_interval else self._number

    def __str__(self) -> str:
        interval = (
            f"{self.level:.0%} interval {self._interval}".replace("%", " %", 1) if self.has_interval else "no interval"
        )
        note = f"; {self.note}" if self.note else ""
        return f"{self._number} ({interval}; {self.counted}{note})"

    @property
    def _number(self) -> str:
        return self._place(self.value) + ("" if self.located or math.isnan(self.value) else ", beyond the range tested")

    @property
    def _interval(self) -> str:
        if self.low < self.tested[0] and self.high > self.tested[1]:
            return "open on both sides"
        return f"{self._place(self.low)} to {self._place(self.high)}"

    def _place(self, number: float) -> str:
        """A number in digits, or beyond which end of the range tested it lies."""
        lowest, highest = self.tested
        if number < lowest or number > highest:
            return f"below {_digits(lowest)}" if number < lowest else f"above {_digits(highest)}"
        return _digits(number)


def _digits(number: float) -> str:
    """A number to three digits, from a thousand on to whole ones; `not estimable` for NaN."""
    if math.isnan(number):
        return "not estimable"
    return f"{number:.0f}" if 999.5 <= abs(number) < 1e6 else f"{number:.3g}"


def mean(values: ArrayLike, unit: str = "seeds") -> Estimate:
    """Mean of independent values, each that of one `unit`, with Student's interval.

    One value has no interval; nor have values that are all equal, of which a spread cannot be estimated. Where one is
    NaN, so is the mean.
    """
    numbers = np.asarray(values, dtype=np.float64)
    n = len(numbers)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, unit, "nothing to average")
    if np.isnan(numbers).any():
        return Estimate(math.nan, math.nan, math.nan, n, unit, "a value is missing")
    centre = float(numbers.mean())
    if numbers.min() == numbers.max():
        note = "one alone has no spread" if n == 1 else "all values are equal"
        return Estimate(centre, math.nan, math.nan, n, unit, note)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * float(numbers.std(ddof=1)) / math.sqrt(n)
    return Estimate(centre, centre - half, centre + half, n, unit)


@functools.cache
def wilson(events: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, from the number of events among n; (nan, nan) for n = 0.

    Raises ValueError for more events than n, or fewer than none.
    """
    if not 0 <= events <= n:  # of which scipy from 1.18 on makes a test without numbers
        raise ValueError(f"{events} events among {n}")
    if n == 0:
        return math.nan, math.nan
    interval = stats.binomtest(events, n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def exact(events: int, n: int) -> Estimate:
    """The share of `events` among n with the 90 % interval whose ends are the bounds of `share_above`, `share_below`.

    So the interval lies on one side of a number just where the one-sided test at 5 % finds that the share does.
    """
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, level=2 * LEVEL - 1)
    return Estimate(events / n, share_above(events, n), share_below(events, n), n, level=2 * LEVEL - 1)


def p_beyond(estimate: Estimate, bound: float) -> float:
    """One-sided p-value of "the number is on the other side of the bound, or on it", from an interval of the estimate.

    That of a normal distribution whose width is that of the half of the interval towards the bound: of an interval by
    resampling or by profile it has no better one. NaN without an interval; 0.5 where it is open; 0 beyond one without
    width, which every sample has given.
    """
    if not estimate.has_interval or math.isnan(estimate.value):
        return math.nan
    half = estimate.value - estimate.low if bound < estimate.value else estimate.high - estimate.value
    if not math.isfinite(half) or estimate.value == bound:
        return 0.5
    if half <= 0:
        return 0.0
    quantile = float(stats.norm.ppf((1 + estimate.level) / 2))
    return float(stats.norm.sf(abs(estimate.value - bound) / half * quantile))


def share_below(events: int, n: int, level: float = LEVEL) -> float:
    """The one-sided upper bound of a share, Clopper and Pearson's (exact): "about zero" is 0 events with this < 0.1."""
    return 1.0 if events == n else float(stats.beta.ppf(level, events + 1, n - events))


def share_above(events: int, n: int, level: float = LEVEL) -> float:
    """The one-sided lower bound of a share, Clopper and Pearson's (exact)."""
    return 1 - share_below(n - events, n, level)


def runs_needed(share: float, bound: float, power: float = POWER, level: float = LEVEL) -> int:
    """The least n at which a true share above a bound has its one-sided lower bound above it, with this probability.

    By symmetry also of a true share 1 - `share` below 1 - `bound`. From that n on, the probability may fall below
    again, as shares are of whole runs. Raises ValueError unless the share lies above the bound.
    """
    if not 0 < bound < share < 1:
        raise ValueError(f"the share is {share} and the bound {bound}; expected 0 < bound < share < 1")
    for n in itertools.count(1):
        least = next((events for events in range(n + 1) if share_above(events, n, level) > bound), n + 1)
        if stats.binom.sf(least - 1, n, share) >= power:
            return n
    raise AssertionError


def runs_to_find(p: float, n: int, power: float = POWER, level: float = LEVEL) -> int | None:
    """About how many runs find an effect as large as the one seen, of which n runs gave this one-sided p-value.

    As with a normal distribution, whose z grows as the root of n. None where the effect seen is none.
    """
    z = float(stats.norm.isf(p))
    if not z > 0:
        return None
    return max(n, math.ceil(n * (float(stats.norm.isf(1 - level) + stats.norm.isf(1 - power)) / z) ** 2))


def share_difference(events: int, n: int, control_events: int, control_n: int) -> tuple[Estimate, float]:
    """The difference of two independent shares with Newcombe's interval (1998, method 10), and Fisher's exact p.

    Positive where the first share is the larger. Raises InputError for a group of no runs.
    """
    if not (n and control_n):
        raise InputError([f"no finished run in one of two groups to compare, of {n} and {control_n}"])
    share, control = events / n, control_events / control_n
    (low, high), (control_low, control_high) = wilson(events, n), wilson(control_events, control_n)
    down, up = math.hypot(share - low, control_high - control), math.hypot(high - share, control - control_low)
    difference = share - control
    table = [[events, n - events], [control_events, control_n - control_events]]
    p = float(stats.fisher_exact(table).pvalue)
    return Estimate(difference, difference - down, difference + up, n + control_n), p


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment (1979) of a family of p-values; NaN stays and counts for none."""
    tested = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    adjusted = dict(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[name] = largest
    return adjusted
