"""The lethal dose: its coverage, its behaviour where the runs leave it open, and that it invents no number."""

import functools
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from analysis.frames.events import EVENTS
from analysis.statistics import dose
from harness.located import InputError
from tests.analysis_folders import died, outcome, survived
from tests.analysis_frames import frame, grid

FILTERS = 65 * 2 ** np.arange(6)
"""The stated design: six filter counts from 65 to 2080, each twice the one before, eight seeds each."""
SEEDS, MIDDLE, SLOPE = 8, 400.0, 2.0
"""Half of the runs die at 400 filters; the odds of death rise with the square of the filter count."""


def penalised(doses: np.ndarray, counts: np.ndarray, n: np.ndarray, intercept: float, slope: float) -> float:
    """Firth's log-likelihood, written down anew: the binomial one and half the log determinant of the information."""
    x = np.log(doses)
    p = expit(intercept + slope * x)
    design = np.stack([np.ones_like(x), x], axis=1)
    information = design.T @ (design * (n * p * (1 - p))[:, None])
    return float((counts * np.log(p) + (n - counts) * np.log1p(-p)).sum() + np.log(np.linalg.det(information)) / 2)


# -- the fit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[0, 1, 3, 6, 8], [0, 0, 8, 8, 8], [1, 0, 4, 3, 7]])
def test_the_fit_and_the_interval_are_those_of_firths_likelihood(counts: list[int]) -> None:
    doses, events, n = np.array([65.0, 130, 260, 520, 1040]), np.array(counts, float), np.full(5, 8.0)
    found = dose.fit(doses, events, n)

    def height(middle: float) -> float:
        lost = lambda log_slope: -penalised(doses, events, n, -math.exp(log_slope[0]) * middle, math.exp(log_slope[0]))  # noqa: E731
        return -float(minimize(lost, [0.5], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).fun)

    best = minimize(lambda at: -height(at[0]), [math.log(260)], method="Nelder-Mead", options={"xatol": 1e-5})
    assert math.log(found.estimate.value) == pytest.approx(best.x[0], abs=0.02)
    for end in (found.estimate.low, found.estimate.high):
        assert 0 < end < math.inf
        assert -best.fun - height(math.log(end)) == pytest.approx(3.841459 / 2, abs=0.03)


def random_design(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two to six doses, within a factor of 1 to 150, with 1 to 12 runs each, that die at random or by a curve."""
    number = int(random.integers(2, 7))
    doses = np.sort(np.exp(random.uniform(0, random.uniform(1, 5), number)))
    finished = random.integers(1, 13, number)
    place = np.log(doses / doses[0]) / np.log(doses[-1] / doses[0])
    curve = expit(math.exp(random.uniform(-1, 4)) * (place - random.uniform(-0.3, 1.3)))
    return doses, random.binomial(finished, random.random(number) if random.random() < 0.5 else curve), finished


def heights(x: np.ndarray, died: np.ndarray, finished: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """The profile at lethal doses by looking at 320 slopes each, with a parabola through the best three."""
    slopes = np.geomspace(1e-6, 1e4, 320)
    found, information = np.zeros((2, len(middles), len(slopes)))
    weights: list[np.ndarray] = []
    for at, events, n in zip(x, died, finished, strict=True):
        z = (at - middles)[:, None] * slopes
        tail = np.exp(-np.abs(z))
        weight = n * tail / (1 + tail) ** 2
        found += events * z - n * (np.maximum(z, 0) + np.log1p(tail))
        information += sum(weight * other * (at - there) ** 2 for there, other in zip(x, weights, strict=False))
        weights.append(weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        found += np.log(information) / 2
        best = found.argmax(axis=1).clip(1, len(slopes) - 2)[:, None]
        before, here, after = (np.take_along_axis(found, best + step, axis=1)[:, 0] for step in (-1, 0, 1))
        vertex = here + (before - after) ** 2 / (8 * (2 * here - before - after))
    return np.where((here > before) & (here > after), vertex, found.max(axis=1))


def check_against_a_dense_search(designs: int, seed: int) -> None:
    """What the interval must hold and where it must end, by the profile within the range tested, [0, 1], and beyond."""
    random = np.random.default_rng(seed)
    far, off = np.geomspace(1e-3, 1e3, 30), 5e-3
    middles = np.concatenate([-far[::-1], np.linspace(0, 1, 121), 1 + far])
    for _ in range(designs):
        doses, died, finished = random_design(random)
        design, scale = [doses.tolist(), died.tolist(), finished.tolist()], np.log(doses[-1] / doses[0])
        profile = functools.partial(heights, np.log(doses / doses[0]) / scale, died, finished)
        height = profile(middles)
        best = int(height.argmax())
        around = np.linspace(middles[max(best - 1, 0)], middles[min(best + 1, len(middles) - 1)], 15)
        near = profile(around)
        top = near.max()
        above = height - top + 3.841459 / 2

        found = dose.fit(*design).estimate
        with np.errstate(divide="ignore"):
            low, value, high = np.log(np.array([found.low, found.value, found.high]) / doses[0]) / scale
        held = middles[(above > off) & (middles >= 0) & (middles <= 1)]
        assert held.size == 0 or low - 1e-6 <= held[0] <= held[-1] <= high + 1e-6, design
        for end in (low, high):
            if 1e-6 < end < 1 - 1e-6:
                assert profile(np.array([end])) == pytest.approx(top - 3.841459 / 2, abs=off), design
        assert low > 0 or (above[middles <= 0] > -off).any(), design
        assert high < 1 or (above[middles >= 1] > -off).any(), design
        if found.located:
            assert profile(np.array([value])) == pytest.approx(top, abs=off), design
        else:
            assert (near > top - off)[around < 0.05 if value < 0 else around > 0.95].any(), design


def test_the_estimate_is_that_of_a_dense_search() -> None:
    check_against_a_dense_search(120, seed=1)


@pytest.mark.slow
def test_the_estimate_is_that_of_a_dense_search_in_many_designs() -> None:
    check_against_a_dense_search(200, seed=2)


def test_of_two_peaks_over_the_slope_the_higher_one_counts() -> None:
    found = dose.fit([1.644, 11.72286, 13.31323, 14.62157], [0, 5, 4, 6], [1, 9, 5, 6])
    assert found.estimate.low == 0 and found.estimate.high == pytest.approx(12.648, abs=1e-3)


def test_where_every_dose_is_as_likely_the_middle_is_taken() -> None:
    """Half of all runs died, and the fewer the higher the dose: no slope is the best, wherever the middle."""
    for units in (1, 134):
        found = dose.fit([units, 3 * units, 9 * units], [9, 5, 2], [9, 12, 11])
        assert found.estimate.value == pytest.approx(3 * units)
        assert found.estimate.short == f"{3 * units} (open on both sides)"


@pytest.mark.parametrize("runs", [8, 2000, 10**6])
def test_the_value_is_no_point_of_a_grid(runs: int) -> None:
    doses = np.array([130.0, 260, 520, 1040])
    events = np.round(runs * expit(1.7 * np.log(doses / 305.5)))
    n = np.full(4, float(runs))
    best = minimize(lambda at: -penalised(doses, events, n, -at[1] * at[0], at[1]), [math.log(300), 1.5], tol=1e-12)
    found = dose.fit(doses, events, n)
    assert math.log(found.estimate.value) == pytest.approx(best.x[0], abs=3e-4)
    assert found.slope == pytest.approx(best.x[1], rel=3e-3)
    assert found.share([found.estimate.value]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("design", "words"),
    [
        (([0, 2], [0, 1], [2, 2]), "doses must be positive"),
        (([2, 2], [0, 1], [2, 2]), "two at least"),
        (([], [], []), "two at least"),
        (([1, math.inf], [0, 1], [2, 2]), "finite"),
        (([1, math.nan], [0, 1], [2, 2]), "finite"),
        (([1, 2], [0, 3], [2, 2]), r"found \[0\.0, 3\.0\] of \[2\.0, 2\.0\]"),
        (([1, 2], [0, -1], [2, 2]), "whole number of runs"),
        (([1, 2], [0, 0.5], [2, 2]), "whole number of runs"),
        (([1, 2], [0, math.nan], [2, 2]), "whole number of runs"),
        (([1, 2], [0, 0], [2, 0]), "one at least"),
    ],
)
def test_doses_and_counts_that_are_none(design: tuple[list[float], list[float], list[float]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dose.fit(*design)


@pytest.mark.slow
def test_the_interval_covers_the_truth_in_a_stated_design() -> None:
    """1,000 experiments of the design above: at least 93 % cover 400, open ends counted; the median width is stated."""
    random = np.random.default_rng(2030)
    chance = expit(SLOPE * np.log(FILTERS / MIDDLE))
    fitted = functools.cache(lambda counts: dose.fit(FILTERS, counts, np.full(len(FILTERS), SEEDS)).estimate)
    found = [fitted(tuple(random.binomial(SEEDS, chance).tolist())) for _ in range(1000)]
    covered = np.mean([each.low <= MIDDLE <= each.high for each in found])
    widths = [each.high / each.low if each.low > 0 else math.inf for each in found]
    open_ended = np.mean(np.isinf(widths))
    print(f"covered {covered:.3f}, median width a factor of {np.median(widths):.2f}, open-ended {open_ended:.3f}")
    assert covered >= 0.93
    assert np.median(widths) < 3, "and it is not so wide as to say nothing"
    assert open_ended < 0.02
    assert np.median([each.value for each in found]) == pytest.approx(MIDDLE, rel=0.05)


# -- what the runs leave open ------------------------------------------------------------------------------------------


def test_complete_separation_locates_the_dose_between_the_two() -> None:
    found = dose.fit([130, 260, 520, 1040], [0, 0, 8, 8], [8] * 4)
    assert found.estimate.note == "complete separation" and found.located
    assert found.estimate.value == pytest.approx(math.sqrt(260 * 520), rel=0.01)
    assert 260 < found.estimate.low < found.estimate.value < found.estimate.high < 520
    assert math.isfinite(found.slope) and found.share([130, 1040]) == pytest.approx([0, 1], abs=0.1)


@pytest.mark.parametrize(
    ("counts", "value", "note", "words"),
    [([8, 8, 8], 0.0, "every run died", "below 130"), ([0, 0, 0], math.inf, "no run died", "above 520")],
)
def test_all_died_or_none_is_beyond_the_range_tested(counts: list[int], value: float, note: str, words: str) -> None:
    found = dose.fit([130, 260, 520], counts, [8] * 3)
    assert found.estimate.value == value and found.estimate.note == note and not found.located
    assert (found.estimate.low == 0) is (value == 0) and (found.estimate.high == math.inf) is (value == math.inf)
    assert str(found).startswith(f"{words}, beyond the range tested (95 % interval ")


def test_too_few_runs_locate_nothing_and_it_says_so() -> None:
    found = dose.fit([130, 1040], [0, 1], [1, 1])
    assert (found.estimate.low, found.estimate.high) == (0, math.inf)
    assert "(95 % interval open on both sides; n = 2 runs; " in str(found)
    assert str(found).endswith("), at 2 doses from 130 to 1040") and found.estimate.short == "368 (open on both sides)"


def test_an_open_end_is_said_and_not_extrapolated() -> None:
    found = dose.fit([130, 260, 520], [0, 1, 4], [8] * 3)
    assert found.estimate.high == math.inf and 0 < found.estimate.low < 520
    assert found.estimate.short == "520 (348 to above 520)"


def test_death_that_falls_with_the_dose() -> None:
    up = dose.fit([130, 260, 520], [0, 3, 8], [8] * 3)
    down = dose.fit([130, 260, 520], [8, 3, 0], [8] * 3, rising=False)
    assert down.estimate.value == pytest.approx(130 * 520 / up.estimate.value, rel=1e-6)
    assert down.estimate.low == pytest.approx(130 * 520 / up.estimate.high, rel=1e-6)
    assert down.slope == pytest.approx(-up.slope) and down.share([130]) > 0.5 > down.share([520])
    wrong = dose.fit([130, 260, 520], [8, 3, 0], [8] * 3)
    assert wrong.estimate.note == "against the assumption, death falls with the dose"


def test_the_unit_of_the_dose_changes_nothing() -> None:
    one, other = (dose.fit(np.array([1, 2, 4, 8]) * unit, [0, 2, 5, 8], [8] * 4) for unit in (1, 1e-4))
    assert other.estimate.value == pytest.approx(one.estimate.value * 1e-4)
    assert other.estimate.high == pytest.approx(one.estimate.high * 1e-4)


# -- from runs ---------------------------------------------------------------------------------------------------------


def test_every_finished_run_counts_once() -> None:
    runs = grid(lambda width, seed: died(50) if width * (1 + seed) > 0.4 else survived(), width=[0.0625, 0.125, 0.25])
    runs.loc[0, "outcome"] = "diverged"
    runs.loc[1, ["state", "outcome"]] = ["failed", None]
    runs["prepool/units"] = runs["model.width"] * 2080
    found = dose.lethal_dose(runs, "prepool/units")
    assert found.doses["dose"].to_list() == [130, 260, 520] and found.tested == (130, 520)
    assert found.doses["finished"].to_list() == [2, 3, 3], "a failed run has neither died nor survived"
    finished = runs[runs["state"] == "finished"]
    assert found.doses["died"].sum() == finished["outcome"].isin(EVENTS).sum()
    assert found.estimate.n == 8


def test_a_scale_that_is_no_positive_number_is_left_out_and_counted() -> None:
    scales: list[object] = [0.1, 0.3, 1.0, 0.0, "learned", "0.1/0.2/0.3"]
    runs = frame(({"model.residual_scale": scale}, died(50) if scale == 1.0 else survived()) for scale in scales)
    found = dose.lethal_dose(runs, "model.residual_scale")
    assert found.estimate.n == 3 and "3 runs without a positive model.residual_scale left out" in found.estimate.note


def test_unusable_doses() -> None:
    runs = frame([({}, died(50)), ({"seed": 1}, survived()), ({"seed": 2}, outcome("diverged", 10))])
    with pytest.raises(InputError, match=r"optim\.lr: a lethal value takes .* two positive ones or more; found: 0\.5"):
        dose.lethal_dose(runs, "optim.lr")
    with pytest.raises(InputError, match=r"no column 'optim\.rate'.*allowed: .*optim\.lr"):
        dose.lethal_dose(runs, "optim.rate")
    with pytest.raises(InputError, match="no metric 'prepool/units'"):
        dose.lethal_dose(runs, "prepool/units")
