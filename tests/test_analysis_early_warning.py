"""Early warning: chance where there is nothing to know, certainty where the reading is the answer, and who is counted."""

import functools

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from analysis.statistics import early_warning
from analysis.statistics.early_warning import LEAST, Ranking, rank
from harness.located import InputError
from harness.outcome import Outcome
from tests.analysis_folders import died, outcome, survived
from tests.analysis_frames import grid, rows

WIDTHS, SCALES = [0.03125, 0.0625, 0.125, 0.25], [0.1, 0.3, 1.0]


def doomed(width: float, scale: float, seed: int) -> Outcome:
    """Half of the seeds of every cell die, at steps 100 and 150: the configuration tells nothing."""
    return died(100 + 50 * (seed == 3)) if seed in (1, 3) else survived()


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return grid(doomed, seeds=4, width=WIDTHS, residual_scale=SCALES)


def telling(runs: pd.DataFrame, from_step: int) -> pd.DataFrame:
    """Rows with a reading that is noise until a step, and from then on higher in the runs that will die."""
    random = np.random.default_rng(0)

    def readings(run: pd.Series, step: int) -> dict[str, float]:
        fate = float(run["outcome"] == "died") if step >= from_step else 0.0
        return {"prepool/dead_share_batch": fate + 0.05 * random.random(), "train/loss": random.random()}

    return rows(runs, readings)


judge = functools.partial(early_warning.by_step, resamples=10)


def test_over_shuffled_outcomes_the_area_is_one_half() -> None:
    """200 shuffles of the outcomes over 24 cells of 5 runs whose readings and outcomes both go with the cell."""
    random = np.random.default_rng(2031)
    groups = np.repeat(np.arange(24), 5)
    features = random.normal(size=(120, 10)) + random.normal(size=(24, 10))[groups]
    fate = random.random(120) < 1 / (1 + np.exp(-2 * features[:, 0]))
    truth = rank(features, fate, groups, repeats=5)
    shuffled = [rank(features, random.permutation(fate), groups, repeats=5).area for _ in range(200)]
    print(f"true {truth.area:.3f}, shuffled {np.mean(shuffled):.4f} +- {np.std(shuffled) / 200**0.5:.4f}")
    assert truth.area > 0.7
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.02)


def test_a_telling_reading_is_found_when_it_begins_to_tell(runs: pd.DataFrame) -> None:
    table = judge(runs, telling(runs, from_step=50), resamples=20).set_index("step")
    assert len(table) <= early_warning.MOST_STEPS and table.index[0] == 0 and table.index[-1] == 140
    assert (table.loc[50:, "auc"] > 0.95).all() and (table.loc[50:, "within"] > 0.95).all()
    assert (table.loc[:40, "auc_low"] < 0.5).all() and (table.loc[:40, "auc_high"] > 0.5).all()
    assert (table.loc[50:, "gain_low"] > 0.2).all(), "the configuration cannot tell seeds apart"


def test_only_runs_known_to_be_alive_are_predicted(runs: pd.DataFrame) -> None:
    table = judge(runs, telling(runs, 0), steps=[0, 90, 91, 140, 141]).set_index("step")
    assert table["n"].to_dict() == {0: 48, 90: 48, 91: 36, 140: 36}, "found dead at 100, last seen alive at 90"
    assert table["died"].to_dict() == {0: 24, 90: 24, 91: 12, 140: 12}, "at 141 no run is left that dies"
    assert (table["groups"] == len(WIDTHS) * len(SCALES)).all()


def test_what_a_run_reads_later_is_not_used(runs: pd.DataFrame) -> None:
    read = telling(runs, from_step=100)
    spoilt = read.copy()
    spoilt.loc[spoilt["step"] > 50, "prepool/dead_share_batch"] = 17.0
    one, other = (judge(runs, each, steps=[50]) for each in (read, spoilt))
    pd.testing.assert_frame_equal(one, other)


def test_a_cell_is_never_ranked_with_its_own_seeds_at_hand() -> None:
    """A reading that only names the cell: it would be perfect if a model had seen the cell, and else it is no use."""
    random = np.random.default_rng(5)
    groups = np.repeat(np.arange(20), 6)
    fate = np.repeat(random.permutation(20) % 2 == 0, 6)
    names = np.eye(20)[groups]
    assert rank(names, fate, groups).area == pytest.approx(0.5, abs=0.05)
    assert rank(names, fate, random.permutation(120)).area > 0.95, "each run its own group"


def test_the_baseline_knows_the_configuration() -> None:
    runs = grid(lambda w, a, _: died(100) if w * a > 0.03 else survived(), seeds=3, width=WIDTHS, residual_scale=SCALES)
    [row] = judge(runs, telling(runs, 500), steps=[50]).to_dict("records")
    assert row["baseline"] > 0.9 and row["gain"] < 0 and row["auc_low"] < 0.6
    assert np.isnan(row["within"]), "no cell has both runs that die and runs that do not"


@pytest.mark.parametrize("seed", range(4))
def test_the_logistic_regression_is_scikit_learns(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(60, 8))
    y = (random.random(60) < 1 / (1 + np.exp(-3 * x[:, 0] - 1))).astype(np.float64)
    theirs = LogisticRegression(C=1 / early_warning.RIDGE, tol=1e-10, max_iter=10_000).fit(x, y)
    assert early_warning._ridge_logistic(x, y) == pytest.approx(theirs.coef_[0], abs=1e-5)


def test_few_cells_are_cross_validated_over_runs() -> None:
    runs = grid(lambda _, seed: died(100) if seed % 2 else survived(), seeds=24, width=[0.125])
    [row] = judge(runs, telling(runs, 0), steps=[50]).to_dict("records")
    assert row["groups"] == row["n"] == 24 and row["auc"] > 0.95
    assert np.isnan([row["within"], row["baseline"], row["gain"]]).all()


def test_a_run_that_diverged_has_not_died_and_a_failed_one_is_not_there(runs: pd.DataFrame) -> None:
    changed = runs.copy()
    for column, value in {"outcome": "diverged", "outcome_step": 120, "outcome_last_live_step": 110}.items():
        changed[column] = changed[column].where(changed.index != 0, value)
    changed.loc[2, "state"], changed.loc[2, "outcome"] = "failed", None
    table = judge(changed, telling(runs, 0), steps=[100, 115]).set_index("step")
    assert table["n"].to_dict() == {100: 35, 115: 34} and (table["died"] == 12).all()


@pytest.mark.parametrize("fate", [died(100), survived(), outcome("diverged", 50, 40)])
def test_all_died_or_none(fate: Outcome) -> None:
    runs = grid(lambda *_: fate, seeds=10, width=[0.125, 0.25])
    found = 20 if fate.outcome == "died" else 0
    with pytest.raises(InputError, match=rf"no step at which {LEAST} runs are alive.*{found} of 20 finished runs died"):
        judge(runs, telling(runs, 0))


def test_readings_that_are_not_there(runs: pd.DataFrame) -> None:
    read = telling(runs, 0)
    with pytest.raises(InputError, match=r"no metric 'train/los'.*did you mean 'train/loss'"):
        judge(runs, read, readings=["train/los"])
    with pytest.raises(InputError, match="no metric 'train/loss'"):
        judge(runs, read[["run_id", "step"]])
    with pytest.raises(InputError, match=r"no column 'model\.depth'"):
        judge(runs, read, baseline=["model.depth"])


def test_missing_and_infinite_readings_are_taken_for_average_ones(runs: pd.DataFrame) -> None:
    read = telling(runs, 0)
    read.loc[read.index[::7], "train/loss"] = np.inf
    read.loc[read["run_id"] == "run0005", "prepool/dead_share_batch"] = np.nan
    assert judge(runs, read, steps=[50])["auc"].iloc[0] > 0.9


def test_the_area_counts_pairs_and_ties_for_half() -> None:
    ranking = Ranking(right=np.array([[0.5, 3.0], [1.0, 0.0]]), total=np.array([[1.0, 4.0], [1.0, 2.0]]))
    assert ranking.area == pytest.approx(4.5 / 8) and ranking.within == pytest.approx(0.5 / 3)
    assert rank(np.zeros((40, 3)), np.arange(40) % 2 == 0, np.arange(40) // 4).area == 0.5
    assert np.isnan(Ranking(np.zeros((2, 2)), np.zeros((2, 2))).area)


def test_the_same_seed_gives_the_same_numbers(runs: pd.DataFrame) -> None:
    read = telling(runs, 50)
    tables = [judge(runs, read, steps=[20], seed=seed) for seed in (0, 0, 1)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert tables[0]["auc_low"].iloc[0] != tables[2]["auc_low"].iloc[0]
