"""Estimates with their intervals and counts, against scipy, published examples and numbers worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import estimates
from analysis.statistics.estimates import Estimate
from harness.located import InputError


def test_every_interval_has_95_percent() -> None:
    assert estimates.LEVEL == 0.95 and math.isclose(estimates.NORMAL, stats.norm.ppf(0.975), rel_tol=1e-14)


def test_a_mean_has_students_interval() -> None:
    values = np.array([0.2, 0.5, 0.1, 0.9])
    found = estimates.mean(values)
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((0.425, low, high))
    assert found.counted == "n = 4 seeds" and found.has_interval


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([0.3], "one alone"),
        ([0.3] * 4, "all values are equal"),
        ([341.5522729581736] * 3, "all values are equal"),  # whose mean is another number, by rounding
        ([0.3, math.nan], "a value is missing"),
        ([], "nothing"),
    ],
)
def test_where_no_spread_is_seen_there_is_no_interval_and_it_says_why(values: list[float], why: str) -> None:
    found = estimates.mean(values)
    assert not found.has_interval and why in found.note and found.n == len(values)
    assert f"no interval; {found.counted}; {why}" in str(found)


def test_an_estimate_says_its_number_its_interval_and_its_count() -> None:
    assert str(Estimate(0.5, 0.25, 0.75, 1, "seeds")) == "0.5 (95 % interval 0.25 to 0.75; n = 1 seed)"


OPEN = (134.0, 1072.0)
"""Filter counts tested."""


@pytest.mark.parametrize(
    ("found", "short", "whole"),
    [
        (Estimate(0.12, 0.05, 0.3, 8), "0.12 (0.05 to 0.3)", "0.12 (95 % interval 0.05 to 0.3; n = 8 runs)"),
        (Estimate(2.432e-6, math.nan, math.nan, 8), "2.43e-06", "2.43e-06 (no interval; n = 8 runs)"),
        (Estimate(0, 0, 0.077, 46), "0 (0 to 0.077)", "0 (95 % interval 0 to 0.077; n = 46 runs)"),
        (Estimate(80, 60.5, math.inf, 8), "80 (60.5 to inf)", "80 (95 % interval 60.5 to inf; n = 8 runs)"),
        (
            Estimate(295.3, 0, math.inf, 40, tested=OPEN),
            "295 (open on both sides)",
            "295 (95 % interval open on both sides; n = 40 runs)",
        ),
        (
            Estimate(999.7, 210, math.inf, 40, note="odd", tested=OPEN),
            "1000 (210 to above 1072)",
            "1000 (95 % interval 210 to above 1072; n = 40 runs; odd)",
        ),
        (
            Estimate(0, 0, 134, 40, tested=OPEN),
            "below 134, beyond the range tested (below 134 to 134)",
            "below 134, beyond the range tested (95 % interval below 134 to 134; n = 40 runs)",
        ),
        (
            Estimate(134, 134, math.inf, 40, tested=OPEN),
            "134 (134 to above 1072)",
            "134 (95 % interval 134 to above 1072; n = 40 runs)",
        ),
        (
            Estimate(1072, 0, 1072, 40, tested=OPEN),
            "1072 (below 134 to 1072)",
            "1072 (95 % interval below 134 to 1072; n = 40 runs)",
        ),
        (
            Estimate(math.inf, 1023.4, math.inf, 40, tested=OPEN),
            "above 1072, beyond the range tested (1023 to above 1072)",
            "above 1072, beyond the range tested (95 % interval 1023 to above 1072; n = 40 runs)",
        ),
        (Estimate(0.5, 0.1, math.nan, 8), "0.5", "0.5 (no interval; n = 8 runs)"),
        (Estimate(math.nan, math.nan, math.nan, 0), "not estimable", "not estimable (no interval; n = 0 runs)"),
    ],
)
def test_an_estimate_in_short_and_as_a_whole(found: Estimate, short: str, whole: str) -> None:
    assert (found.short, str(found)) == (short, whole)


@pytest.mark.parametrize(
    ("number", "words"),
    [(999.4, "999"), (999.5, "1000"), (-1234.6, "-1235"), (999999, "999999"), (1e6, "1e+06"), (0.02604, "0.026")],
)
def test_a_number_has_three_digits_and_whole_ones_from_a_thousand_on(number: float, words: str) -> None:
    assert Estimate(number, math.nan, math.nan, 1).short == words


@pytest.mark.parametrize(("value", "located"), [(134, True), (1072, True), (133.9, False), (1073, False)])
def test_what_lies_at_the_ends_of_the_range_tested_is_located(value: float, located: bool) -> None:
    assert Estimate(value, 0, math.inf, 8, tested=OPEN).located == located


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@example((0, 1))
@example((3, 3))
def test_wilsons_ends_are_the_shares_at_which_the_score_test_turns(counted: tuple[int, int]) -> None:
    events, n = counted
    low, high = estimates.wilson(events, n)
    assert 0 <= low <= events / n <= high <= 1
    for end, trivial in ((low, events == 0), (high, events == n)):
        if trivial:
            assert end == events / n
        else:
            assert abs(events / n - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / n))


def test_a_share_of_no_runs_has_no_interval_and_of_more_than_all_is_refused() -> None:
    assert np.isnan(estimates.wilson(0, 0)).all()
    for events, n in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError):
            estimates.wilson(events, n)


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


shares = st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(shares, shares)
def test_a_difference_of_shares_by_newcombes_formula(one: tuple[int, int], other: tuple[int, int]) -> None:
    found, p = estimates.share_difference(*one, *other)
    (a, low_a, high_a), (b, low_b, high_b) = ((events / n, *estimates.wilson(events, n)) for events, n in (one, other))
    assert found.value == pytest.approx(a - b) and found.n == one[1] + other[1]
    assert found.low == pytest.approx(a - b - math.sqrt((a - low_a) ** 2 + (high_b - b) ** 2))
    assert found.high == pytest.approx(a - b + math.sqrt((high_a - a) ** 2 + (b - low_b) ** 2))
    assert -1 <= found.low <= found.value <= found.high <= 1 and 0 < p <= 1
    back, same_p = estimates.share_difference(*other, *one)
    assert (back.low, back.high, same_p) == pytest.approx((-found.high, -found.low, p))


@pytest.mark.parametrize("counts", [(0, 0, 1, 2), (1, 2, 0, 0)])
def test_a_share_of_no_runs_is_not_compared(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match=f"of {counts[1]} and {counts[3]}"):
        estimates.share_difference(*counts)


@pytest.mark.parametrize(("events", "n"), [(0, 29), (13, 13), (5, 16), (1, 59)])
def test_an_exact_share_is_shown_with_the_bounds_that_decide(events: int, n: int) -> None:
    found = estimates.exact(events, n)
    theirs = stats.binomtest(events, n).proportion_ci(0.9, method="exact")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high)) and found.level == pytest.approx(0.9)
    for bound in (0.1, 0.5):
        assert (found.high < bound) == (stats.binomtest(events, n, bound, "less").pvalue < 0.05)
        assert (found.low > bound) == (stats.binomtest(events, n, bound, "greater").pvalue < 0.05)
    assert "90 % interval" in str(found)
    assert math.isnan(estimates.exact(0, 0).value) and not estimates.exact(0, 0).has_interval


def test_the_p_value_of_an_interval_is_that_of_the_normal_test() -> None:
    half = 1.959963984540054
    found = Estimate(2.0, 2.0 - half, 2.0 + half, 10)
    assert estimates.p_beyond(found, 0.0) == pytest.approx(float(stats.norm.sf(2)))
    assert estimates.p_beyond(found, 2.0 - half) == pytest.approx(0.025), "at the end of the interval"
    assert estimates.p_beyond(Estimate(2.0, 1.0, 10.0, 5), 3.0) > 0.3, "the half towards the bound counts"
    assert estimates.p_beyond(Estimate(2.0, -math.inf, 4.0, 5), 0.0) == 0.5
    assert estimates.p_beyond(Estimate(0.5, 0.5, 0.5, 9), 0.0) == 0, "no sample says otherwise"
    assert estimates.p_beyond(Estimate(0.5, 0.5, 0.5, 9), 0.5) == 0.5
    assert math.isnan(estimates.p_beyond(Estimate(2.0, math.nan, math.nan, 1), 0.0))


def test_runs_that_find_an_effect_as_seen() -> None:
    found = estimates.runs_to_find(float(stats.norm.sf(1.0)), 10, power=0.8, level=0.975)
    assert found == math.ceil(10 * (1.959964 + 0.841621) ** 2), "the textbook's (z_alpha + z_beta)² / d²"
    assert estimates.runs_to_find(1e-9, 10) == 10, "no fewer than there are"
    assert estimates.runs_to_find(0.5, 10) is None is estimates.runs_to_find(math.nan, 10)


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


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_holm_rejects_what_his_step_down_procedure_rejects(values: list[float], level: float) -> None:
    """Of m hypotheses, ordered by p, reject until the first p above level / (those that are left)."""
    rejected = 0
    for place, p in enumerate(sorted(values)):
        if p * (len(values) - place) > level:
            break
        rejected += 1
    adjusted = estimates.holm(dict(enumerate(values)))  # type: ignore[arg-type]
    assert sum(p <= level for p in adjusted.values()) == (rejected if level < 1 else len(values))


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=20))
def test_a_mean_is_scipys(values: list[float]) -> None:
    found = estimates.mean(values, "runs")
    assert found.has_interval == (len(set(values)) > 1)
    if not found.has_interval:
        return
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), theirs.low, theirs.high))
    assert found.counted == f"n = {len(values)} runs"
