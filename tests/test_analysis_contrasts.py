"""Differences between arms, learning-rate sensitivity and the growth of the variance, on frames with known answers."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import contrasts, estimates, growth, sensitivity
from harness.located import InputError
from tests.analysis_folders import died, outcome, survived
from tests.analysis_frames import frame, grid, rows


@pytest.fixture
def arms() -> pd.DataFrame:
    """Two widths, scales 1 and 0.1, five seeds, all alive; 0.1 is better by 0.01 and by 0.001 for each seed."""
    runs = grid(lambda *_: survived(), seeds=5, width=[0.125, 0.25], residual_scale=[1.0, 0.1])
    gain = np.where(runs["model.residual_scale"] == 0.1, 0.01 + 0.001 * runs["seed"], 0)
    return runs.assign(**{"val/accuracy": 0.8 + 0.1 * runs["model.width"] + gain})


# -- differences -------------------------------------------------------------------------------------------------------


def test_a_difference_is_that_of_equal_runs_averaged_by_seed(arms: pd.DataFrame) -> None:
    found = contrasts.difference(arms, "val/accuracy", "model.residual_scale", 0.1, 1.0)
    assert found.by_seed.to_dict() == pytest.approx({seed: 0.01 + 0.001 * seed for seed in range(5)})
    assert (found.estimate.n, found.estimate.unit, found.pairs, found.unmatched) == (5, "seeds", 10, 0)
    low, high = stats.t.interval(0.95, 4, found.by_seed.mean(), stats.sem(found.by_seed))
    assert (found.estimate.low, found.estimate.high) == pytest.approx((low, high))


def test_runs_without_a_partner_are_counted(arms: pd.DataFrame) -> None:
    arms.loc[0, ["state", "outcome"]] = ["failed", None]
    found = contrasts.difference(arms, "val/accuracy", "model.residual_scale", 0.1, 1.0)
    assert (found.pairs, found.unmatched) == (9, 1) and "1 runs without a partner left out" in str(found)


def test_one_seed_has_no_interval_and_it_says_so(arms: pd.DataFrame) -> None:
    found = contrasts.difference(arms[arms["seed"] == 0], "val/accuracy", "model.residual_scale", 0.1, 1.0)
    assert not found.estimate.has_interval and "no interval; n = 1 seed" in str(found)
    assert math.isnan(contrasts.equivalence(found.by_seed.to_numpy(), 0.02).p)


def test_what_comes_with_a_name_is_part_of_it(arms: pd.DataFrame) -> None:
    names = np.where(arms["model.residual_scale"] == 0.1, "adam", "sgd")
    runs = arms.assign(**{"optim.name": names, "optim.momentum": np.where(names == "sgd", 0.9, np.nan)})
    runs = runs.assign(**{"model.residual_scale": 1.0})
    assert contrasts.difference(runs, "val/accuracy", "optim.name", "adam", "sgd").pairs == 10


def test_none_is_a_level(arms: pd.DataFrame) -> None:
    clipped = arms.assign(**{"optim.clip_norm": np.where(arms["model.residual_scale"] == 0.1, 2.0, np.nan)})
    clipped["model.residual_scale"] = 1.0
    found = contrasts.difference(clipped, "val/accuracy", "optim.clip_norm", 2.0, None)
    assert found.pairs == 10 and found.estimate.value == pytest.approx(0.012)


def test_unusable_contrasts(arms: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"no metric 'val/acc'.*did you mean 'val/accuracy'"):
        contrasts.difference(arms, "val/acc", "model.residual_scale", 0.1, 1.0)
    with pytest.raises(InputError, match=r"no finished run has model\.residual_scale = 0\.2.*allowed: 0\.1, 1\.0"):
        contrasts.difference(arms, "val/accuracy", "model.residual_scale", 0.2, 1.0)
    unlike = arms[(arms["model.width"] == 0.25) == (arms["model.residual_scale"] == 0.1)]
    with pytest.raises(InputError, match=r"has a partner at 1\.0 that is equal in all else"):
        contrasts.difference(unlike, "val/accuracy", "model.residual_scale", 0.1, 1.0)


def test_only_cells_in_which_every_control_survived_are_spared(arms: pd.DataFrame) -> None:
    dead = (arms["model.width"] == 0.25) & (arms["model.residual_scale"] == 1.0) & (arms["seed"] == 3)
    arms.loc[dead, "outcome"] = "died"
    spared = contrasts.spared_cells(arms, "model.residual_scale", 1.0)
    assert spared["model.width"].unique().tolist() == [0.125] and len(spared) == 10
    arms.loc[0, ["state", "outcome"]] = ["failed", None]
    assert contrasts.spared_cells(arms, "model.residual_scale", 1.0).empty, "a failed run has not survived"


# -- equivalence -------------------------------------------------------------------------------------------------------


def test_equivalence_is_two_t_tests_of_scipys() -> None:
    values = np.random.default_rng(0).normal(0.002, 0.01, 12)
    found = contrasts.equivalence(values, 0.01)
    assert found.not_lower == pytest.approx(stats.ttest_1samp(values, -0.01, alternative="greater").pvalue)
    assert found.not_higher == pytest.approx(stats.ttest_1samp(values, 0.01, alternative="less").pvalue)
    assert found.p == max(found.not_lower, found.not_higher) and found.n == 12


def test_equivalence_agrees_with_the_90_percent_interval() -> None:
    values = np.random.default_rng(1).normal(0, 0.01, 8)
    reach = max(abs(end) for end in stats.t.interval(0.9, 7, values.mean(), stats.sem(values)))
    assert contrasts.equivalence(values, reach * 1.001).p < 0.05 < contrasts.equivalence(values, reach * 0.999).p


def test_equal_values_and_margins_that_are_none() -> None:
    assert contrasts.equivalence([0.0, 0.0, 0.0], 0.01).p == 0
    assert contrasts.equivalence([0.02, 0.02], 0.01).p == 1
    with pytest.raises(ValueError, match="must be positive"):
        contrasts.equivalence([0.0, 0.1], 0.0)


# -- learning-rate sensitivity -----------------------------------------------------------------------------------------


def test_sensitivity_by_hand() -> None:
    runs = grid(lambda *_: survived(), seeds=2, lr=[0.01, 0.1, 1.0])
    runs["val/loss"] = [1.0, 1.2, 0.5, 0.4, 9.0, np.nan]  # rates by seeds; the last run diverged
    runs.loc[5, "outcome"] = "diverged"
    found = sensitivity.to_rate(runs, rows(runs, lambda _, step: {"train/loss": 2.2 if step == 0 else 1.0}))
    assert found.initial == pytest.approx(2.2)
    assert found.losses.to_numpy() == pytest.approx(np.array([[1.0, 1.2], [0.5, 0.4], [2.2, 2.2]]))
    assert found.by_seed.to_list() == pytest.approx([(0.5 + 0 + 1.7) / 3, (0.8 + 0 + 1.8) / 3])
    assert found.estimate.value == pytest.approx(np.mean(found.by_seed)) and found.estimate.n == 2


def test_a_seed_without_a_run_at_some_rate_is_left_out_and_named() -> None:
    runs = grid(lambda *_: survived(), seeds=3, lr=[0.01, 0.1]).assign(**{"val/loss": 1.0})
    runs.loc[1, ["state", "outcome"]] = ["failed", None]
    found = sensitivity.to_rate(runs, rows(runs, lambda *_: {"train/loss": 2.0}))
    assert found.left_out == (1,) and found.estimate.n == 2 and "left out: [1]" in str(found)


def test_unusable_sensitivities() -> None:
    runs = grid(lambda *_: survived(), seeds=2, width=[0.125, 0.25], lr=[0.1, 1.0]).assign(**{"val/loss": 1.0})
    read = rows(runs, lambda *_: {"train/loss": 2.0})
    with pytest.raises(InputError, match=r"these differ in model\.width too"):
        sensitivity.to_rate(runs, read)
    with pytest.raises(InputError, match="at each of at least two learning rates"):
        sensitivity.to_rate(runs.iloc[:2], read)
    with pytest.raises(InputError, match=r"no metric 'val/los'"):
        sensitivity.to_rate(runs, read, "val/los")


# -- the variance at initialisation ------------------------------------------------------------------------------------


def variances(law: str, noise: float = 0.0) -> pd.DataFrame:
    """The table of runs whose stages of 2, 4 and 2 blocks follow a law of L and alpha, each stage from another start."""
    random = np.random.default_rng(0)
    runs = grid(lambda *_: survived(20), seeds=4, residual_scale=[0.1, 0.3, 1.0])

    def readings(run: pd.Series, step: int) -> dict[str, float]:
        row, number, alpha = {}, 0, float(run["model.residual_scale"])
        for stage, blocks in enumerate((2, 4, 2), 1):
            variance = float(stage)
            for block in range(1, blocks + 1):
                number += 1
                row[f"block/b{number:02d}/skip/channel_variance"] = variance
                grown = {"linear": 0.5 * block * alpha**2, "doubling": stage * ((1 + alpha**2) ** block - 1)}[law]
                variance = stage + grown * math.exp(noise * random.normal()) + step
                row[f"block/b{number:02d}/sum/channel_variance"] = variance
        return row

    return growth.variances(runs, rows(runs, readings))


def test_a_linear_law_has_both_exponents_one_in_every_stage() -> None:
    table = variances("linear", noise=0.02)
    assert len(table) == 12 * 8 and table.groupby("stage")["block"].max().to_list() == [2, 4, 2]
    for found, blocks in zip(growth.by_stage(table), (2, 4, 2), strict=True):
        assert (found.points, found.shrunk) == (12 * blocks, 0)
        assert found.slope.value == pytest.approx(0.5, rel=0.03) and found.slope.n == 4
        assert found.explained.value > 0.99
        assert found.blocks.value == pytest.approx(1, abs=0.05) and found.scale.value == pytest.approx(1, abs=0.02)
        assert found.blocks.has_interval and found.scale.n == 4


def test_what_is_added_is_linear_where_every_relu_takes_some_variance_away() -> None:
    table = variances("linear")
    taken = table.assign(growth=table["growth"] - 0.3 * table["block"] * table["growth"].max())
    assert growth.by_stage(taken)[1].shrunk > 0
    middle = growth.by_stage(taken, "added_until")[1]
    assert middle.shrunk == 0 and middle.blocks.value == pytest.approx(1, abs=0.05)
    last = table[table["block"] == table.groupby(["run_id", "stage"])["block"].transform("max")]
    sums = table.groupby(["run_id", "stage"])["added"].sum()
    assert last["added_until"].to_numpy() == pytest.approx(sums.to_numpy()), "cumulated within a stage of a run"


def test_one_stratum_is_compared_as_two_shares_and_strata_guard_against_simpson() -> None:
    found, _ = contrasts.stratified_difference([(9, 12, 2, 12)])
    newcombe, _ = estimates.share_difference(9, 12, 2, 12)
    assert (found.value, found.low, found.high) == pytest.approx((newcombe.value, newcombe.low, newcombe.high))
    opposed = [(1, 10, 18, 90), (54, 90, 7, 10)]  # less in either stratum, and 55 against 25 of 100 without strata
    found, p = contrasts.stratified_difference(opposed)
    assert found.value == pytest.approx(-0.1) and found.n == 200 and p > 0.05
    excess = (1 - 10 * 19 / 100) + (54 - 90 * 61 / 100)
    variance = 10 * 90 * 19 * 81 / (100**2 * 99) + 90 * 10 * 61 * 39 / (100**2 * 99)
    assert p == pytest.approx(float(stats.norm.sf(abs(excess) / math.sqrt(variance)) * 2))
    assert contrasts.stratified_difference([(0, 5, 0, 5)])[1] == 1.0
    with pytest.raises(InputError, match="no finished run"):
        contrasts.stratified_difference([(0, 0, 1, 5)])


def test_a_doubling_law_is_told_from_a_linear_one() -> None:
    middle = growth.by_stage(variances("doubling"))[1]
    assert middle.blocks.value > 1.1 and middle.scale.value > 1.1


def test_a_variance_that_shrinks_is_counted() -> None:
    table = variances("linear")
    table.loc[(table["stage"] == 2) & (table["block"] == 1), "growth"] = -0.1
    assert [found.shrunk for found in growth.by_stage(table)] == [0, 12, 0]


def test_one_scale_has_no_exponent_of_it() -> None:
    table = variances("linear", noise=0.02)
    found = growth.by_stage(table[table["alpha"] == 0.3])[1]
    assert math.isnan(found.scale.value) and found.blocks.value == pytest.approx(1, abs=0.1)


def test_rows_without_these_readings() -> None:
    runs = frame([({}, died(50)), ({"seed": 1}, outcome("diverged", 10))])
    with pytest.raises(InputError, match=r"no metric 'block/b01/sum/channel_variance'.*allowed: train/loss"):
        growth.variances(runs, rows(runs, lambda *_: {"train/loss": 1.0}))
