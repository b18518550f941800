"""Survival against lifelines, scipy and tables worked by hand; what becomes of runs that diverged, failed or live on."""

import math

import numpy as np
import pandas as pd
import pytest
from lifelines import AalenJohansenFitter, KaplanMeierFitter  # type: ignore[import-untyped]
from lifelines.statistics import multivariate_logrank_test  # type: ignore[import-untyped]
from lifelines.utils import median_survival_times, restricted_mean_survival_time  # type: ignore[import-untyped]
from scipy import stats

from analysis.statistics import survival
from harness.located import InputError
from tests.analysis_folders import died, outcome, survived
from tests.analysis_frames import frame, grid, rows


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


def test_strata_are_compared_within_themselves_only() -> None:
    time, happened = random_times(7)
    group = np.arange(len(time)) % 2
    plain = survival.logrank(time, happened, group)
    twice = survival.logrank(np.tile(time, 2), np.tile(happened, 2), np.tile(group, 2), np.repeat([0, 1], len(time)))
    assert twice.statistic == pytest.approx(2 * plain.statistic), "sums of excess and variance both double"
    confounded = survival.logrank([10, 10, 90, 90], [True] * 4, ["a", "a", "b", "b"], ["x", "x", "y", "y"])
    assert math.isnan(confounded.p) and "company" in confounded.note


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
    assert area.value == 200 and not area.has_interval and "no event" in area.note
    test = survival.logrank([200] * 8, [False] * 8, [0, 1] * 4)
    assert math.isnan(test.p) and test.note == "no event" and "no comparison" in str(test)


def test_one_run_has_a_curve_and_no_interval_of_its_mean() -> None:
    assert survival.kaplan_meier([40], [True]).share.tolist() == [1, 0]
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
    ],
)
def test_unusable_times(time: list[float], happened: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        survival.kaplan_meier(time, happened)


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
