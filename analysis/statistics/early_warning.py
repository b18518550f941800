"""Whether the first steps' readings tell which runs will die, and whether they tell more than the configuration does.

At step k, among the runs then known to be alive, a logistic regression with a ridge penalty ranks the runs by their
readings until then. It is cross-validated over cells (combinations of training fields), so that no other seed of a cell
helps to rank it, and judged by the area under the ROC curve (AUC): the share of pairs, one run that died later and one
that did not, ranked the right way round; 0.5 is chance. Only pairs that one model ranked count: pooling the scores of
several models would bring the area below 0.5 where nothing can be predicted (Airola et al. 2011).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.frames import columns
from analysis.frames.columns import demand
from analysis.frames.events import EVENTS
from analysis.statistics.estimates import LEVEL
from harness.located import InputError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Whole = NDArray[np.int64]
READINGS = (
    "train/loss",
    "train/accuracy",
    "prepool/dead_share_batch",
    "prepool/inert_share_batch",
    "prepool/dormant_share_batch",
    "prepool/zero_fraction",
    "prepool/zero_sample_share",
    "prepool/mean",
    "prepool/rms",
    "prepool/max",
)
"""Readings of the training batch that every run has."""
BASELINE = ("model.width", "model.residual_scale", "optim.lr")
"""What is known before the first step; the baseline knows their logarithms."""
FOLDS, REPEATS = 5, 20
"""Parts of a cross-validation, and how often it is done, each time with other parts."""
RESAMPLES, THEIR_REPEATS = 60, 2
"""Bootstrap samples of an interval, and how often each is cross-validated."""
RIDGE = 1.0
"""Half of it times the squared norm of the coefficients, of standardised readings, is added to the loss."""
LEAST = 5
"""Runs that die later, and that do not, that a step must have to be judged."""
MOST_STEPS = 12
"""Steps that are judged where none are named."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """How pairs of runs were ranked, one that died and one that did not: counts by the groups of the two, (G, G).

    right: pairs ranked the right way round, a tie being half of one; total: all pairs; both means over the repeats.
    """

    right: Floats
    total: Floats

    @property
    def area(self) -> float:
        """The AUC, NaN where there is no pair."""
        total = self.total.sum()
        return float(self.right.sum() / total) if total else math.nan

    @property
    def within(self) -> float:
        """The AUC among the pairs of one group, whom their configuration cannot tell apart; NaN for no pair."""
        total = self.total.trace()
        return float(self.right.trace() / total) if total else math.nan


def by_step(
    runs: pd.DataFrame,
    rows: pd.DataFrame,
    steps: Sequence[int] | None = None,
    readings: Sequence[str] | None = None,
    baseline: Sequence[str] = BASELINE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """How well the death of a run is predicted at each step, from frames of `load` and `load_rows`.

    One row a step k. Columns: `step`; `n`, finished runs known to be alive at k; `died`, those of them that died (or
    collapsed) later, where a run that diverged did not; `groups`, the cells that they are of. Then four numbers, each
    with its 95 % interval as `..._low` and `..._high`: `auc`, of the readings; `within`, the same among the seeds of
    one cell; `baseline`, of the fields `baseline` alone, NaN where none varies; `gain`, `auc` less `baseline`. Where
    there are fewer cells than FOLDS the runs themselves are the groups, and `within` is NaN. Intervals are Student's,
    with the spread over `resamples` bootstrap samples of the cells, in each of which all models are fitted anew; to
    keep the fitted models would leave out how they vary, and cover the truth less often than it says.

    The readings of a run at k are the latest until then and their changes since the run's first row; `readings` names
    them, left out: those of READINGS that there are. Left out, `steps` are up to MOST_STEPS of the rows' steps; steps
    at which fewer than LEAST runs die later, or fewer do not, are not judged. `seed` is that of the parts and samples.
    Raises InputError for readings that are not there, and where no step can be judged, as when all runs died or none.
    """
    names = [name for name in READINGS if name in rows] if readings is None else list(readings)
    demand(rows, *(names or READINGS[:1]))
    finished = runs[runs["state"] == "finished"].reset_index(drop=True)
    read = rows.loc[rows["run_id"].isin(finished["run_id"]), ["run_id", "step", *names]].sort_values("step")
    died = finished["outcome"].isin(EVENTS).to_numpy()
    alive = {step: _alive(finished, step) for step in (read["step"].unique().tolist() if steps is None else steps)}
    judged = [step for step, here in alive.items() if min((died & here).sum(), (~died & here).sum()) >= LEAST]
    if not judged:
        found = f"{died.sum()} of {len(died)} finished runs died"
        raise InputError([f"no step at which {LEAST} runs are alive that die later and {LEAST} that do not: {found}"])
    if steps is None and len(judged) > MOST_STEPS:
        judged = [judged[place] for place in np.linspace(0, len(judged) - 1, MOST_STEPS).round().astype(int)]
    groups, known = _groups(finished), _known(finished, baseline)
    table = []
    for step in judged:
        here = alive[step]
        features = _features(read[read["step"] <= step], finished.loc[here, "run_id"], names)
        table.append({"step": step} | _judge(features, known[here], died[here], groups[here], resamples, seed))
    return pd.DataFrame(table)


def rank(features: Floats, died: Bools, groups: Whole, repeats: int = REPEATS, seed: int = 0) -> Ranking:
    """Rank runs by features that are to tell which died, with models that never saw a run of their group.

    `features` (m, p), NaN where missing; `died` (m,); `groups` (m,), numbers from 0, at least two of them, which each
    repeat deals into FOLDS parts anew.
    """
    random = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    right, total = np.zeros((count, count)), np.zeros((count, count))
    for _ in range(repeats):
        part_of_group = random.permutation(count) % FOLDS
        part = part_of_group[groups]
        for held in range(min(FOLDS, count)):
            out = part == held
            dead, spared = np.flatnonzero(out & died), np.flatnonzero(out & ~died)
            if not (len(dead) and len(spared)):
                continue
            score = _scores(features, died, ~out)
            ahead = score[dead][:, None] - score[spared]
            pairs = groups[dead][:, None], groups[spared]
            np.add.at(right, pairs, (ahead > 0) + (ahead == 0) / 2)
            np.add.at(total, pairs, 1.0)
    return Ranking(right / repeats, total / repeats)


def _judge(features: Floats, known: Floats, died: Bools, groups: Whole, resamples: int, seed: int) -> dict[str, float]:
    """One row of the table."""
    groups = np.unique(groups, return_inverse=True)[1]
    members = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
    random = np.random.default_rng(seed)

    def resampled() -> dict[str, float]:
        drawn = np.sort(random.integers(len(members), size=len(members)))
        runs = np.concatenate([members[group] for group in drawn])
        again = np.unique(groups[runs], return_inverse=True)[1]  # a group drawn twice is one, so that it is not split
        return _areas(features[runs], known[runs], died[runs], again, THEIR_REPEATS, int(random.integers(2**31)))

    found: dict[str, float] = {"n": len(died), "died": int(died.sum()), "groups": len(members)}
    samples = pd.DataFrame([resampled() for _ in range(resamples)])
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(members) - 1))
    for name, value in _areas(features, known, died, groups, REPEATS, seed).items():
        low, high = value + quantile * float(samples[name].std()) * np.array([-1, 1])
        least = -1.0 if name == "gain" else 0.0
        found |= {name: value, f"{name}_low": max(least, float(low)), f"{name}_high": min(1.0, float(high))}
    return found


def _areas(features: Floats, known: Floats, died: Bools, groups: Whole, repeats: int, seed: int) -> dict[str, float]:
    ranking = rank(features, died, groups, repeats, seed)
    baseline = rank(known, died, groups, repeats, seed).area if known.shape[1] else math.nan
    return {"auc": ranking.area, "within": ranking.within, "baseline": baseline, "gain": ranking.area - baseline}


def _scores(features: Floats, died: Bools, training: Bools) -> Floats:
    """The log odds of death of every run, (m,), by a model of the `training` runs: their readings standardised."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a reading that no run of the training has
        centre, spread = np.nanmean(features[training], axis=0), np.nanstd(features[training], axis=0)
        x = np.nan_to_num((features - centre) / np.where(spread > 0, spread, np.inf)).clip(-5, 5)
    return np.asarray(x) @ _ridge_logistic(x[training], died[training].astype(np.float64))


def _ridge_logistic(x: Floats, y: Floats) -> Floats:
    """Coefficients (p,) of a logistic regression of y in {0, 1} on x (m, p) with an unpenalised intercept, left out.

    Newton's method. scikit-learn's LogisticRegression gives the same coefficients, and would make `by_step` on
    experiments/results/filters 5.6 times slower (by its Newton's method; 8.8 times by its default).
    """
    x = np.column_stack([x, np.ones(len(x))])
    penalty = np.append(np.full(x.shape[1] - 1, RIDGE), 1e-6)
    coefficients = np.zeros(x.shape[1])
    for _ in range(25):
        share = 1 / (1 + np.exp(-(x @ coefficients).clip(-30, 30)))
        slope = x.T @ (y - share) - penalty * coefficients
        curvature = (x.T * (share * (1 - share))) @ x + np.diag(penalty)
        move = np.linalg.solve(curvature, slope)
        coefficients += move
        if np.abs(move).max() < 1e-6:
            break
    return coefficients[:-1]


def _alive(finished: pd.DataFrame, step: int) -> Bools:
    """Which runs were seen alive at a check at or after a step."""
    return finished["outcome_last_live_step"].ge(step).fillna(False).to_numpy(dtype=np.bool_)


def _features(read: pd.DataFrame, run_ids: pd.Series[str], names: list[str]) -> Floats:
    """The latest readings, and their changes since the first, of each run: (m, 2p)."""
    of_run = read.groupby("run_id")[names]
    latest, first = (table.reindex(run_ids).to_numpy(dtype=np.float64) for table in (of_run.last(), of_run.first()))
    with np.errstate(invalid="ignore"):
        both = np.column_stack([latest, latest - first])
    return np.where(np.isfinite(both), both, np.nan)


def _known(finished: pd.DataFrame, baseline: Sequence[str]) -> Floats:
    """The logarithms of those of the fields that vary, (m, q)."""
    demand(finished, *baseline)
    values = [pd.to_numeric(finished[name], errors="coerce").astype(float).to_numpy() for name in baseline]
    with np.errstate(all="ignore"):
        logs = [np.log(column) for column in values if np.unique(column).size > 1]
    table = np.column_stack(logs) if logs else np.empty((len(finished), 0))
    return np.where(np.isfinite(table), table, np.nan)


def _groups(finished: pd.DataFrame) -> Whole:
    """The number of each run's cell, or of the run itself where there are too few cells, (m,)."""
    cells = [tuple(fields) for fields in finished[columns.candidates(finished)].astype(str).to_numpy()]
    numbers = {cell: number for number, cell in enumerate(dict.fromkeys(cells))}
    return np.array([numbers[cell] for cell in cells]) if len(numbers) >= FOLDS else np.arange(len(cells))
