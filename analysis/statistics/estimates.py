"""A number with its interval and the count it stands on, and what several such numbers may claim together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from harness.located import InputError

LEVEL = 0.95
"""Coverage of every interval that does not say otherwise."""
NORMAL = 1.959963984540054
"""Quantile of the standard normal distribution that leaves 2.5 % above it."""


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval, and n, the count of `unit`s (runs, seeds, ...) that it was made from.

    low, high: NaN where there is no interval; infinite (of a dose: also 0) where it is open. note: why, if anything is
    unusual.
    """

    value: float
    low: float
    high: float
    n: int
    unit: str = "runs"
    note: str = ""

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def counted(self) -> str:
        """Such as `n = 8 seeds`."""
        return f"n = {self.n} {self.unit.removesuffix('s') if self.n == 1 else self.unit}"

    def __str__(self) -> str:
        interval = f"95 % interval {self.low:.3g} to {self.high:.3g}" if self.has_interval else "no interval"
        note = f"; {self.note}" if self.note else ""
        return f"{self.value:.3g} ({interval}; {self.counted}{note})"


def mean(values: ArrayLike, unit: str = "seeds") -> Estimate:
    """Mean of independent values, each that of one `unit`, with Student's interval.

    One value has no interval; nor have values that are all equal, of which a spread cannot be estimated.
    """
    numbers = np.asarray(values, dtype=np.float64)
    n = len(numbers)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, unit, "nothing to average")
    centre = float(numbers.mean())
    if n == 1 or not numbers.std() > 0:
        note = "one alone has no spread" if n == 1 else "all values are equal"
        return Estimate(centre, math.nan, math.nan, n, unit, note)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * float(numbers.std(ddof=1)) / math.sqrt(n)
    return Estimate(centre, centre - half, centre + half, n, unit)


def wilson(events: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, from the number of events among n; (nan, nan) for n = 0."""
    if n == 0:
        return math.nan, math.nan
    z = NORMAL
    centre = (events + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(events * (n - events) / n + z * z / 4)
    return (0.0 if events == 0 else centre - half), (1.0 if events == n else centre + half)


def share_below(events: int, n: int, level: float = LEVEL) -> float:
    """The one-sided upper bound of a share, Clopper and Pearson's (exact): "about zero" is 0 events with this < 0.1."""
    return 1.0 if events == n else float(stats.beta.ppf(level, events + 1, n - events))


def share_above(events: int, n: int, level: float = LEVEL) -> float:
    """The one-sided lower bound of a share, Clopper and Pearson's (exact)."""
    return 1 - share_below(n - events, n, level)


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
