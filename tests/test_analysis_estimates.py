"""Estimates with their intervals and counts, against scipy, published examples and numbers worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import estimates
from analysis.statistics.estimates import Estimate


def test_a_mean_has_students_interval() -> None:
    values = np.array([0.2, 0.5, 0.1, 0.9])
    found = estimates.mean(values)
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((0.425, low, high))
    assert found.counted == "n = 4 seeds" and found.has_interval


@pytest.mark.parametrize(
    ("values", "why"), [([0.3], "one alone"), ([0.3] * 4, "all values are equal"), ([], "nothing")]
)
def test_where_no_spread_is_seen_there_is_no_interval_and_it_says_why(values: list[float], why: str) -> None:
    found = estimates.mean(values)
    assert not found.has_interval and why in found.note
    assert f"no interval; {found.counted}; {why}" in str(found)


def test_an_estimate_says_its_number_its_interval_and_its_count() -> None:
    assert str(Estimate(0.5, 0.25, 0.75, 1, "seeds")) == "0.5 (95 % interval 0.25 to 0.75; n = 1 seed)"


@pytest.mark.parametrize(("events", "n"), [(0, 29), (1, 29), (7, 20), (20, 20)])
def test_one_sided_bounds_are_scipys_exact_ones(events: int, n: int) -> None:
    upper = stats.binomtest(events, n, alternative="less").proportion_ci(0.95, "exact").high
    lower = stats.binomtest(events, n, alternative="greater").proportion_ci(0.95, "exact").low
    assert estimates.share_below(events, n) == pytest.approx(upper)
    assert estimates.share_above(events, n) == pytest.approx(lower)


def test_no_death_among_29_runs_is_about_zero_and_among_28_is_not() -> None:
    assert estimates.share_below(0, 29) < 0.1 < estimates.share_below(0, 28)


def test_a_difference_of_shares_has_newcombes_interval() -> None:
    found, p = estimates.share_difference(56, 70, 48, 80)  # Newcombe 1998, table II, example (a), method 10
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert found.n == 150 and p == pytest.approx(stats.fisher_exact([[56, 14], [48, 32]]).pvalue)


def test_holms_adjustment_by_hand() -> None:
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": math.nan, "e": 0.005}
    found = estimates.holm(p)
    assert {name: found[name] for name in "aceb"} == pytest.approx({"e": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert math.isnan(found["d"]) and list(found) == list(p)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_makes_a_p_smaller(values: list[float]) -> None:
    found = estimates.holm({str(place): p for place, p in enumerate(values)})
    adjusted = [found[str(place)] for place in np.argsort(values, kind="stable")]
    assert adjusted == sorted(adjusted) and max(adjusted) <= 1
    assert all(found[str(place)] >= p for place, p in enumerate(values))
    assert adjusted[0] == min(1, min(values) * len(values)), "the smallest is Bonferroni's"
