"""Survival against lifelines, scipy and tables worked by hand; what becomes of runs that diverged, failed or live on."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines import AalenJohansenFitter, KaplanMeierFitter  # type: ignore[import-untyped]
from lifelines.statistics import multivariate_logrank_test  # type: ignore[import-untyped]
from lifelines.utils import median_survival_times, restricted_mean_survival_time  # type: ignore[import-untyped]
from scipy import stats

from analysis.statistics import survival
from harness.located import InputError
from tests.analysis_folders import died, outcome, survived
from tests.analysis_frames import frame, grid, rows

runs_of_integers = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=20)


def random_times(seed: int, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Randomly censored times of 5 to 60 runs, and whether the event came."""
    random = np.random.default_rng(seed)
    n = int(random.integers(5, 60))
    event, censored = random.exponential(50, n), random.exponential(80, n)
    time = np.minimum(event, censored)
    return (np.ceil(time / 10) * 10 if ties else time), event <= censored


# -- against lifelines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_kaplan_meier_its_band_median_and_area_are_lifelines(seed: int) -> None:
    time, happened = random_times(seed)
    theirs = KaplanMeierFitter().fit(time, happened)
    ours = survival.kaplan_meier(time, happened)
    assert ours.time == pytest.approx(theirs.survival_function_.index.to_numpy())
    assert ours.share == pytest.approx(theirs.survival_function_.to_numpy().ravel())
    assert ours.at_risk[1:] == pytest.approx(theirs.event_table["at_risk"].to_numpy()[1:])
    band = theirs.confidence_interval_.to_numpy()
    inner = (ours.share > 0) & (ours.share < 1)
    assert inner.any()
    assert np.stack([ours.low, ours.high], axis=1)[inner] == pytest.approx(band[inner])
    assert survival.median(ours).value == theirs.median_survival_time_
    until = float(np.median(time))
    assert survival.restricted_mean(time, happened, until).value == pytest.approx(
        restricted_mean_survival_time(theirs, until)
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_medians_interval_is_lifelines(seed: int) -> None:
    time, happened = random_times(seed)
    theirs = median_survival_times(KaplanMeierFitter().fit(time, happened).confidence_interval_).to_numpy().ravel()
    ours = survival.median(survival.kaplan_meier(time, happened))
    assert [ours.low, ours.high] == theirs.tolist()


@pytest.mark.parametrize("groups", [2, 3, 5])
@pytest.mark.parametrize("seed", range(6))
def test_the_log_rank_test_is_lifelines_and_for_two_groups_scipys(seed: int, groups: int) -> None:
    time, happened = random_times(seed)
    group = np.random.default_rng(seed).integers(0, groups, len(time))
    theirs = multivariate_logrank_test(time, group, happened)
    ours = survival.logrank(time, happened, group)
    assert (ours.statistic, ours.p) == pytest.approx((theirs.test_statistic, theirs.p_value))
    assert ours.groups["expected"].sum() == pytest.approx(happened.sum()) and ours.groups["n"].sum() == len(time)
    if groups == 2:
        arms = [stats.CensoredData(time[happened & (group == g)], right=time[~happened & (group == g)]) for g in (0, 1)]
        scipys = stats.logrank(*arms)
        assert (ours.statistic, ours.p) == pytest.approx((scipys.statistic**2, scipys.pvalue))


@pytest.mark.parametrize("seed", range(8))
def test_cumulative_incidence_and_its_band_are_lifelines(seed: int) -> None:
    time, happened = random_times(seed, ties=False)  # theirs jitters ties at random
    causes = np.where(happened, np.random.default_rng(seed).choice(["died", "diverged"], len(time)), "censored")
    codes = np.searchsorted(["censored", "died", "diverged"], causes)
    for code, cause in enumerate(("died", "diverged"), 1):
        theirs = AalenJohansenFitter().fit(time, codes, code)
        ours = survival.cumulative_incidence(time, causes, cause)
        shares = theirs.cumulative_density_.iloc[:, 0]
        found = [ours.at(moment) for moment in shares.index]
        assert [each.value for each in found] == pytest.approx(shares.to_numpy())
        band = np.sort(theirs.confidence_interval_.to_numpy(), axis=1)
        inner = (shares.to_numpy() > 0) & ~np.isnan(band).any(axis=1)  # theirs divides by zero once nobody is left
        assert inner.sum() > 2
        assert np.array([(each.low, each.high) for each in found])[inner] == pytest.approx(band[inner])


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_a_table_worked_by_hand() -> None:
    curve = survival.kaplan_meier([10, 20, 20, 30, 40, 50], [True, True, False, True, False, False])
    assert curve.time.tolist() == [0, 10, 20, 30, 40, 50]
    assert curve.share == pytest.approx([1, 5 / 6, 4 / 6, 4 / 9, 4 / 9, 4 / 9])
    assert curve.at_risk.tolist() == [6, 6, 5, 3, 2, 1] and (curve.n, curve.events) == (6, 3)
    assert curve.at(25).value == pytest.approx(4 / 6) and curve.at(0).value == 1
    # area to 40: 10 + 10 * 5/6 + 10 * 4/6 + 10 * 4/9; Greenwood: areas beyond 10, 20, 30 with d / (n (n - d))
    area = survival.restricted_mean([10, 20, 20, 30, 40, 50], [True, True, False, True, False, False], 40)
    beyond = [10 * (5 / 6 + 4 / 6 + 4 / 9), 10 * (4 / 6 + 4 / 9), 10 * 4 / 9]
    error = math.sqrt(beyond[0] ** 2 / 30 + beyond[1] ** 2 / 20 + beyond[2] ** 2 / 6)
    assert area.value == pytest.approx(10 + beyond[0])
    assert [area.low, area.high] == pytest.approx([area.value - 1.959964 * error, area.value + 1.959964 * error])


def test_a_restricted_mean_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    truth = 50 * (1 - math.exp(-60 / 50))  # area under exp(-t / 50) up to 60
    hits = []
    for _ in range(400):
        event = random.exponential(50, 40)
        found = survival.restricted_mean(np.minimum(event, 100), event <= 100, 60)
        hits.append(found.low <= truth <= found.high)
    assert np.mean(hits) > 0.92


def test_a_difference_of_restricted_means_has_the_sum_of_their_variances() -> None:
    time, happened = random_times(3)
    treated = np.arange(len(time)) % 2 == 0
    found = survival.restricted_mean_difference(time, happened, treated, 40)
    arms = [survival.restricted_mean(time[arm], happened[arm], 40) for arm in (treated, ~treated)]
    assert found.value == pytest.approx(arms[0].value - arms[1].value) and found.n == len(time)
    half = math.hypot(arms[0].value - arms[0].low, arms[1].value - arms[1].low)
    assert found.high - found.value == pytest.approx(half)


ENDS = [10.0, 20, 30, 40, 50, 60], [True, False, True, False, True, False]


@pytest.mark.parametrize(
    ("happened", "treated", "note"),
    [
        (ENDS[1], [True] + [False] * 5, "one run in a group"),
        (ENDS[1], [False] * 5 + [True], "one run in a group"),
        ([False] * 6, [True] * 2 + [False] * 4, "no event, so no spread"),
    ],
)
def test_a_difference_of_restricted_means_without_a_spread(happened: Any, treated: Any, note: str) -> None:
    followed = np.full(6, 60.0)
    found = survival.restricted_mean_difference(followed, happened, treated, 60)
    mask = np.array(treated)
    arms = [survival.restricted_mean(followed[arm], np.array(happened)[arm], 60) for arm in (mask, ~mask)]
    assert found.value == arms[0].value - arms[1].value and not found.has_interval
    assert (found.n, found.note) == (6, note)


@pytest.mark.parametrize("treated", [[True, True, False, False], [False, False, True, True]])
def test_two_runs_in_a_group_and_an_event_in_one_are_a_spread(treated: list[bool]) -> None:
    found = survival.restricted_mean_difference([10, 60, 60, 60], [True, False, False, False], treated, 60)
    error = 1.959964 * 50 / math.sqrt(8)  # the area beyond 10 is 25; Greenwood's 1 / (2 * 1)
    middle = -25.0 if treated[0] else 25.0
    assert [found.low, found.value, found.high] == pytest.approx([middle - error, middle, middle + error])
    both = survival.restricted_mean_difference([10, 60, 10, 60], [True, False, True, False], treated, 60)
    assert [both.low, both.high] == pytest.approx([-error * math.sqrt(2), error * math.sqrt(2)])
    alone = survival.restricted_mean([10, 60], [True, False], 60)
    assert [alone.low, alone.value, alone.high] == pytest.approx([35 - error, 35, 60])


def test_a_restricted_mean_lies_between_nothing_and_all_of_the_time() -> None:
    found = survival.restricted_mean([1, 1, 1, 60], [True, True, True, False], 60)
    assert found.low == 0 and found.high < 60
    found = survival.restricted_mean([1, 60, 60, 60], [True, False, False, False], 60)
    assert found.high == 60 and found.low > 0


def test_all_of_the_time_may_be_less_than_one_and_not_none() -> None:
    assert survival.restricted_mean([0.1, 0.9], [True, False], 0.5).value == pytest.approx(0.3)
    with pytest.raises(ValueError, match="until = 0 is not between"):
        survival.restricted_mean([0.1, 0.9], [True, False], 0)


def test_once_nobody_is_left_there_is_no_more_spread() -> None:
    some, more = (survival.restricted_mean([10, 20, 30], [True] * 3, until) for until in (30, 500))
    assert more.has_interval and (some.low, some.value) == pytest.approx((more.low, more.value))


@pytest.mark.parametrize("runs", [1, 3, 10])
def test_an_end_that_all_have_comes_to_one(runs: int) -> None:
    curve = survival.cumulative_incidence(range(1, runs + 1), ["event"] * runs, "event")
    assert curve.share[-1] == curve.high[-1] == 1
    assert curve.low[-1] == pytest.approx(stats.binomtest(runs, runs).proportion_ci(0.95, "exact").low)


def test_a_log_rank_test_in_words() -> None:
    found = survival.logrank([10, 20, 30, 40], [True] * 4, ["b", "b", "a", "a"])
    assert str(found) == "log-rank chi² = 2.88 on 1 df, p = 0.09 (n = 2, 2 runs)"
    assert found.groups.index.to_list() == ["a", "b"] and found.groups.columns.to_list() == [
        "n",
        "observed",
        "expected",
    ]
    assert found.groups["expected"].to_list() == pytest.approx([0.5 + 2 / 3 + 2, 0.5 + 1 / 3])
    apart = survival.logrank([10, 20, 30, 40], [True] * 4, ["b", "b", "a", "a"], ["b", "b", "a", "a"])
    assert apart.freedom == 0 and math.isnan(apart.statistic)
    assert str(apart) == "no comparison (no event in company of another group; n = 2, 2 runs)"


def test_strata_are_compared_within_themselves_only() -> None:
    time, happened = random_times(7)
    group = np.arange(len(time)) % 2
    plain = survival.logrank(time, happened, group)
    twice = survival.logrank(np.tile(time, 2), np.tile(happened, 2), np.tile(group, 2), np.repeat([0, 1], len(time)))
    assert twice.statistic == pytest.approx(2 * plain.statistic), "sums of excess and variance both double"
    confounded = survival.logrank([10, 10, 90, 90], [True] * 4, ["a", "a", "b", "b"], ["x", "x", "y", "y"])
    assert math.isnan(confounded.p) and "company" in confounded.note


@given(runs_of_integers)
def test_kaplan_meier_is_the_product_of_what_each_moment_spares(runs: list[tuple[int, bool]]) -> None:
    time, happened = zip(*runs, strict=True)
    curve = survival.kaplan_meier(time, happened)
    share = Fraction(1)
    for moment in range(max(time) + 1):
        at_risk, deaths = sum(each >= moment for each in time), runs.count((moment, True))
        share *= 1 - Fraction(deaths, at_risk)
        found = curve.at(moment)
        assert found.value == pytest.approx(float(share)) and 0 <= found.low <= found.value <= found.high <= 1
    assert curve.n == len(runs) and curve.events == sum(happened)
    assert curve.at_risk.tolist() == [sum(each >= moment for each in time) for moment in curve.time]
    lived = float(sum(Fraction(curve.at(moment).value) for moment in range(max(time))))  # each unit of time by itself
    if max(time):
        assert survival.restricted_mean(time, happened, max(time)).value == pytest.approx(lived)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from(["censored", "event", "competing"])), min_size=1, max_size=20)
)
def test_cumulative_incidence_adds_up_over_those_who_are_left(runs: list[tuple[int, str]]) -> None:
    time, ends = zip(*runs, strict=True)
    curves = {cause: survival.cumulative_incidence(time, ends, cause) for cause in survival.CAUSES}
    left, shares = Fraction(1), dict.fromkeys(survival.CAUSES, Fraction(0))
    for moment in range(max(time) + 1):
        at_risk = sum(each >= moment for each in time)
        of_cause = {cause: Fraction(runs.count((moment, cause)), at_risk) for cause in shares}
        shares = {cause: share + left * of_cause[cause] for cause, share in shares.items()}
        left *= 1 - sum(of_cause.values())
        for cause, share in shares.items():
            found = curves[cause].at(moment)
            assert found.value == pytest.approx(float(share)) and 0 <= found.low <= found.value <= found.high <= 1


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.sampled_from("ab")), min_size=2, max_size=20))
def test_the_log_rank_test_of_two_groups_by_its_sums(runs: list[tuple[int, bool, str]]) -> None:
    excess = variance = 0.0
    for moment in range(9):
        at_risk = [group for time, _, group in runs if time >= moment]
        died = [group for time, happened, group in runs if time == moment and happened]
        if len(at_risk) > 1:
            share = at_risk.count("a") / len(at_risk)
            excess += died.count("a") - len(died) * share
            variance += len(died) * share * (1 - share) * (len(at_risk) - len(died)) / (len(at_risk) - 1)
    found = survival.logrank(*map(list, zip(*runs, strict=True)))
    if variance:
        assert found.statistic == pytest.approx(excess**2 / variance, abs=1e-9) and found.freedom == 1
        assert found.p == pytest.approx(stats.chi2.sf(excess**2 / variance, 1))
    else:
        assert math.isnan(found.p) and found.note


def test_two_groups_have_one_degree_of_freedom_however_the_variance_rounds() -> None:
    found = survival.logrank([0, 0, 1, 2, 2], [False, True, True, False, True], ["a", "b", "b", "b", "b"])
    assert found.freedom == 1 and found.p == pytest.approx(stats.chi2.sf(0.25, 1))


def test_groups_that_had_no_company_add_no_degree_of_freedom() -> None:
    """Two pairs of groups, each compared in a stratum of its own: the sum of both tests."""
    time, happened = np.array([1, 2, 3, 4, 5, 6, 7, 8] * 2), np.array([True] * 12 + [False] * 4)
    group, stratum = np.repeat([0, 1, 0, 1, 2, 3, 2, 3], 2), np.repeat([0, 1], 8)
    parts = [survival.logrank(time[part], happened[part], group[part]) for part in (stratum == 0, stratum == 1)]
    both = survival.logrank(time, happened, group, stratum)
    assert both.freedom == 2 and both.statistic == pytest.approx(sum(part.statistic for part in parts))


# -- the ends of a curve -----------------------------------------------------------------------------------------------


def test_all_died() -> None:
    curve = survival.kaplan_meier([10, 20, 30], [True] * 3)
    assert curve.share[-1] == 0 and curve.low[-1] == 0
    exact = stats.binomtest(3, 3).proportion_ci(0.95, "exact").low
    assert curve.high[-1] == pytest.approx(1 - exact), "three deaths of three leave room for survivors"
    assert survival.restricted_mean([10, 20, 30], [True] * 3, 500).value == 20, "nobody is left beyond the last death"


def test_none_died() -> None:
    curve = survival.kaplan_meier([200] * 8, [False] * 8)
    assert curve.share.tolist() == [1, 1] and curve.high.tolist() == [1, 1]
    assert curve.low == pytest.approx(stats.binomtest(8, 8).proportion_ci(0.95, "exact").low), "not a certainty"
    assert survival.median(curve).value == math.inf
    area = survival.restricted_mean([200] * 8, [False] * 8, 200)
    assert area.value == 200 and not area.has_interval and area.note == "no event, so no spread"
    test = survival.logrank([200] * 8, [False] * 8, [0, 1] * 4)
    assert math.isnan(test.p) and test.note == "no event" and "no comparison" in str(test)


def test_one_run_has_a_curve_and_no_interval_of_its_mean() -> None:
    curve = survival.kaplan_meier([40], [True])
    assert curve.share.tolist() == [1, 0] and curve.high[-1] == pytest.approx(0.975)
    assert survival.restricted_mean([40, 40], [False, False], 30).note == "no event, so no spread"
    area = survival.restricted_mean([40], [True], 30)
    assert area.value == 30 and not area.has_interval and area.note == "one run"
    assert survival.logrank([40], [True], ["a"]).note == "one group"


def test_a_death_at_initialisation() -> None:
    curve = survival.kaplan_meier([0, 10], [True, False])
    assert curve.time.tolist() == [0, 10] and curve.share.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("time", "happened", "message"),
    [
        ([], [], "no finished run"),
        ([1.0], [True, False], "shapes"),
        ([math.nan], [True], "finite"),
        ([-1.0], [True], "not negative"),
        ([math.inf], [True], "finite"),
        ([None], [True], "finite"),
        ([pd.NA], [True], "times must be numbers"),
        (["1"], [True], "times must be numbers; found the type <U1"),
        ([True], [True], "times must be numbers; found the type bool"),
        (pd.to_datetime(["2026-01-01"]), [True], "times must be numbers; found the type datetime64"),
        ([[1.0]], [True], "shapes"),
    ],
)
def test_unusable_times(time: Any, happened: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        survival.kaplan_meier(time, happened)
    if "shapes" not in message and len(time):
        with pytest.raises(ValueError, match=message):
            survival.numbers_at_risk(time, [0, 1])


NO_EVENTS: list[Any] = [math.nan, None, pd.NA, pd.NaT, 2, -1, 0.5, math.inf, "died", "True", "", b"1", [True], {}]
"""What is neither true nor false."""


@pytest.mark.parametrize("wrong", NO_EVENTS, ids=repr)
def test_what_is_no_event_is_refused_wherever_one_is_taken(wrong: Any) -> None:
    kaplan_meier: Any = survival.kaplan_meier
    for happened in ([True, False, wrong], pd.Series([True, False, wrong])):
        for function, *more in (
            (kaplan_meier,),
            (survival.restricted_mean, 1),
            (survival.restricted_mean_difference, [True, False, False], 1),
            (survival.logrank, ["a", "b", "a"]),
        ):
            with pytest.raises(ValueError, match="whether the event came must be true or false"):
                function([1, 2, 3], happened, *more)
        with pytest.raises(ValueError, match="whether a run was treated must be true or false"):
            survival.restricted_mean_difference([1, 2, 3], [True] * 3, happened, 1)


@pytest.mark.parametrize(
    "happened",
    [
        [1, 0, 1],
        [1.0, 0.0, 1.0],
        np.array([True, False, True], dtype=object),
        pd.Series([True, False, True], dtype="boolean"),
    ],
    ids=str,
)
def test_what_equals_true_and_false_is_an_event_or_none(happened: Any) -> None:
    assert survival.kaplan_meier([1, 2, 3], happened).share.tolist() == [1, 2 / 3, 2 / 3, 0]


@pytest.mark.parametrize("wrong", [math.nan, None, pd.NA, pd.NaT], ids=repr)
@pytest.mark.parametrize("rest", [["a", "b", "a"], [0, 1, 1], [0.1, 0.3, 0.1]], ids=str)
def test_a_missing_group_or_stratum_is_no_group(wrong: Any, rest: list[Any]) -> None:
    for labels in ([*rest, wrong], pd.Series([*rest, wrong])):
        with pytest.raises(ValueError, match="a group is missing"):
            survival.logrank([1, 2, 3, 4], [True] * 4, labels)
        with pytest.raises(ValueError, match="a stratum is missing"):
            survival.logrank([1, 2, 3, 4], [True] * 4, [0, 1, 0, 1], labels)


@pytest.mark.parametrize("n", [0, 3, 5])
def test_every_run_has_one_group_one_stratum_and_one_arm(n: int) -> None:
    with pytest.raises(ValueError, match=f"a group for each of 4 runs, found {n}"):
        survival.logrank([1, 2, 3, 4], [True] * 4, [0] * n)
    with pytest.raises(ValueError, match=f"a stratum for each of 4 runs, found {n}"):
        survival.logrank([1, 2, 3, 4], [True] * 4, [0, 1, 0, 1], [0] * n)
    with pytest.raises(ValueError, match=r"a mask of 4 runs, found shape"):
        survival.restricted_mean_difference([1, 2, 3, 4], [True] * 4, [True] * n, 1)


def test_groups_may_be_labelled_by_anything() -> None:
    mixed: list[Any] = ["b", 1, "b", 1]
    found = survival.logrank([1, 2, 3, 4], [True] * 4, mixed)
    assert set(found.groups.index) == {"b", 1}
    assert found.statistic == survival.logrank([1, 2, 3, 4], [True] * 4, pd.Categorical(["b", "a", "b", "a"])).statistic


@pytest.mark.parametrize(
    ("ends", "cause", "words"),
    [
        (["event", "censored"], "evnt", "did you mean 'event'"),
        (["event", "censored"], "died", "allowed: competing, event"),
        (["censored", "censored"], "died", "allowed: competing, event"),
        (["died", "censored"], "event", "allowed: died"),
        (["event", "censored"], "censored", "allowed: competing, event"),
        (["event", "Censored"], "event", "did you mean 'censored'"),
        (["event", "cencored"], "event", "did you mean 'censored'"),
        (["event", math.nan], "event", "found nan"),
        (["event", None], "event", "found None"),
        (["event", 1], "event", "found 1"),
        ([True, False], "event", "found True"),
    ],
)
def test_an_end_or_a_cause_that_is_none(ends: list[Any], cause: str, words: str) -> None:
    for given_ends in (ends, pd.Series(ends, dtype=object)):
        with pytest.raises(ValueError, match=words):
            survival.cumulative_incidence([1, 2], given_ends, cause)


def test_a_cause_that_can_compete_and_did_not_come_has_no_incidence() -> None:
    assert survival.cumulative_incidence([1, 2], ["event", "censored"], "competing").share.tolist() == [0, 0, 0]
    assert survival.cumulative_incidence([1, 2], ["censored", "censored"], "event").events == 0


@pytest.mark.parametrize("moment", [-1, math.nan])
def test_a_curve_begins_at_zero(moment: float) -> None:
    with pytest.raises(ValueError, match="begins at time 0"):
        survival.kaplan_meier([10, 20], [True, False]).at(moment)


def test_a_target_that_is_no_number_is_not_missed() -> None:
    runs = frame([({}, survived())])
    with pytest.raises(ValueError, match="the target is nan"):
        survival.reached(runs, rows(runs, lambda *_: {"val/accuracy": 1.0}), "val/accuracy", math.nan)


def test_a_mean_beyond_what_was_followed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"until = 300 is not between 0 and 200"):
        survival.restricted_mean([50, 200], [True, False], 300)


# -- from runs to times ------------------------------------------------------------------------------------------------


def test_times_of_runs() -> None:
    runs = frame(
        [
            ({"seed": 0}, died(50)),
            ({"seed": 1}, survived(200)),
            ({"seed": 2}, survived(180)),  # dead at its last checks, too few to decide: censored at the last live one
            ({"seed": 3}, outcome("diverged", 30, 20)),
            ({"seed": 4}, outcome("collapsed", 70, 60)),
            ({"seed": 5}, "failed"),
            ({"seed": 6}, "running"),
        ]
    )
    times = survival.times(runs)
    assert times.index.to_list() == [0, 1, 2, 3, 4], "failed and running runs have no time, and have not survived"
    assert times["end"].to_list() == ["event", "censored", "censored", "competing", "event"]
    assert times["time"].to_list() == [50, 200, 180, 30, 70]
    assert times["since"].to_list() == [40, 200, 180, 20, 60]
    assert times["held"].to_list() == [50, 200, 180, 200, 70], "what diverged can no longer die"


def test_where_epochs_are_configured_the_longest_run_tells_the_planned_end() -> None:
    ends = [({}, survived(150)), ({"seed": 1}, outcome("diverged", 30, 20)), ({"seed": 2}, died(50))]
    runs = frame(({"train.steps": None} | fields, end) for fields, end in ends)
    assert survival.times(runs)["held"].to_list() == [150, 150, 50]


def test_divergence_competes_with_death_and_does_not_censor_it() -> None:
    """With one planned end for all, 1 - Kaplan-Meier of the held times is the Aalen-Johansen incidence of death."""
    random = np.random.default_rng(1)

    def fate(_: float, seed: int) -> object:
        step = int(random.integers(1, 30)) * 10
        if step > 200:
            return survived()
        return died(step) if random.random() < 0.6 else outcome("diverged", step, step - 10)

    runs = grid(fate, seeds=60, width=[0.125])  # type: ignore[arg-type]
    times = survival.times(runs)
    assert (times["end"] == "competing").sum() > 10
    curve = survival.kaplan_meier(times["held"], times["end"] == "event")
    incidence = survival.cumulative_incidence(times["time"], times["end"], "event")
    moments = np.arange(0, 201, 5).tolist()
    assert [1 - curve.at(moment).value for moment in moments] == pytest.approx(
        [incidence.at(moment).value for moment in moments]
    )
    both = survival.cumulative_incidence(times["time"], times["end"], "competing")
    assert both.at(200).value + incidence.at(200).value == pytest.approx(1 - (times["end"] == "censored").mean())
    assert incidence.at(200).value == pytest.approx((runs["outcome"] == "died").mean()), "the map's share"


def test_times_against_the_cumulative_learning_rate() -> None:
    """A rate of 0.5 that a warm-up of 20 steps at 0.1 precedes; the event lies between two rows."""
    runs = frame([({}, died(45)), ({"seed": 1}, outcome("diverged", 60, 50)), ({"seed": 2}, survived())])
    read = rows(runs, lambda _, step: {"optim/lr": 0.1 if step < 20 else 0.5, "optim/cumulative_lr": cumulative(step)})
    times = survival.times(runs, read, against="cumulative_lr")
    assert times["time"].to_list() == pytest.approx([2 + 0.5 * 25, 2 + 0.5 * 40, 2 + 0.5 * 180])
    assert times["since"].to_list() == pytest.approx([2 + 0.5 * 15, 2 + 0.5 * 30, 2 + 0.5 * 180])
    assert times["held"].iloc[1] == pytest.approx(2 + 0.5 * 180), "its planned end, at its last rate"


def test_a_rate_that_changes_is_followed_between_readings_and_kept_after_the_last() -> None:
    runs = frame([({}, died(25)), ({"seed": 1}, outcome("diverged", 60, 50))])
    read = rows(runs, lambda _, step: {"optim/lr": float(step), "optim/cumulative_lr": float(step**2)})
    times = survival.times(runs, read, against="cumulative_lr")
    assert times["time"].to_list() == [(20**2 + 30**2) / 2, 60**2]
    assert times["held"].to_list() == [(20**2 + 30**2) / 2, 60**2 + 60 * 140]
    short = read[(read["run_id"] == "run0001") | (read["step"] <= 30)]
    assert survival.times(runs, short, against="cumulative_lr")["time"].iloc[0] == (20**2 + 30**2) / 2
    assert set(survival.AGAINST) == {"step", "cumulative_lr"}


def cumulative(step: int) -> float:
    return 0.1 * min(step, 20) + 0.5 * max(step - 20, 0)


def test_the_cumulative_learning_rate_takes_rows_that_have_it() -> None:
    runs = frame([({}, died(45)), ({"seed": 1}, survived())])
    with pytest.raises(InputError, match="take the rows"):
        survival.times(runs, against="cumulative_lr")
    with pytest.raises(InputError, match=r"no metric 'optim/cumulative_lr'.*allowed: train/loss"):
        survival.times(runs, rows(runs, lambda *_: {"train/loss": 1.0}), against="cumulative_lr")
    read = rows(runs, lambda *_: {"optim/lr": 0.1, "optim/cumulative_lr": 1.0})
    with pytest.raises(InputError, match="no reading of optim/cumulative_lr in the rows of run run0001"):
        survival.times(runs, read[read["run_id"] == "run0000"], against="cumulative_lr")


def test_how_fast_runs_train() -> None:
    runs = frame([({}, survived()), ({"seed": 1}, survived()), ({"seed": 2}, died(60)), ({"seed": 3}, died(150))])
    speed = {"run0000": 0.01, "run0001": 0.002, "run0002": 0.005, "run0003": 0.01}
    read = rows(runs, lambda run, step: {"val/accuracy": speed[run["run_id"]] * step})
    times = survival.reached(runs, read, "val/accuracy", 0.6)
    assert times["end"].to_list() == ["event", "censored", "competing", "event"]
    assert times["time"].to_list() == [60, 200, 60, 60] and times["since"].to_list() == [50, 200, 80, 50]
    assert times["held"].to_list() == [60, 200, 200, 60], "a dead network never gets there"
    with pytest.raises(InputError, match=r"no metric 'val/acuracy'.*did you mean 'val/accuracy'"):
        survival.reached(runs, read, "val/acuracy", 0.6)
    assert isinstance(times, pd.DataFrame)
