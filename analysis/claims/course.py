"""Claims about when nets die, how rates and warm-ups move that, and what foretells it: C2, C3, C5 and C13."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.claims.arms import (
    FEW,
    LOST,
    NEEDS,
    NEEDS_NONE,
    above,
    all_of,
    any_of,
    below,
    count,
    cures,
    decide,
    died,
    graded,
    lost,
    share,
    where,
)  # fmt: skip
from analysis.claims.claim import Claim, Judgement, Verdict
from analysis.figures import warning_curve
from analysis.frames.results import Results
from analysis.statistics import early_warning, health, survival
from analysis.statistics.estimates import Estimate, p_beyond

FORETOLD_AT = 20
"""Step at which the loss of a net is to be foretold."""
BATCH = "prepool/dead_share_batch"


def in_training(results: Mapping[str, Results]) -> Judgement:
    """Whether nets are lost in training: of the runs that were lost, the share dead on their first batch already."""
    runs, rows = where(results["filters"]), results["filters"].rows
    dead = runs[lost(runs)]
    at_start = dead["run_id"].map(rows[rows["step"] == 0].set_index("run_id")[BATCH]).astype(float)

    def at_birth(some: pd.DataFrame) -> pd.Series[bool]:
        unseen = died(some) & some["outcome_last_live_step"].isna()
        return unseen | (at_start.reindex(some.index) >= health.MOST_DEAD)

    verdict, p = decide(below(dead, at_birth, FEW), above(dead, at_birth, FEW))
    estimate = share(dead, at_birth)
    remarks = (
        f"Of the runs that were lost, {count(dead, at_birth)} were dead at step 0.",
        f"Their units dead on the first batch: median {at_start.median():.0%}, at most {at_start.max():.0%}.",
    )
    return Judgement(verdict, estimate, "share dead at step 0", p, [("dead at step 0", estimate)], remarks)


def _revived(runs: pd.DataFrame) -> pd.Series[bool]:
    return runs["revival_step"].notna()


def for_good(results: Mapping[str, Results]) -> Judgement:
    """Whether death is for good: of the runs that died and were trained on, the share in which a unit came back."""
    runs = where(results["revival"])
    dead = runs[died(runs)]
    verdict, p = decide(below(dead, _revived, FEW), above(dead, _revived, FEW))
    estimate = share(dead, _revived)
    after = (dead["last_step"] - dead["outcome_step"]).median()
    remarks = (f"{count(dead, _revived)} had a live unit again, in a median of {after:.0f} steps that were watched.",)
    return Judgement(verdict, estimate, "share that revived", p, [("revived", estimate)], remarks)


def lower_rate(results: Mapping[str, Results]) -> Judgement:
    """Whether a lower rate delays the loss and no more, in long runs: who is lost by their end, and when."""
    runs = where(results["learning_rate"])
    rates = sorted(runs["optim.lr"].unique())
    parts = {float(rate): runs[runs["optim.lr"] == rate] for rate in rates}
    highest, lower = parts[rates[-1]], [parts[rate] for rate in rates[:-1]]
    arms = [(f"rate {rate:g}", share(part)) for rate, part in parts.items()]
    tests = {float(rate): _later(parts[rate], highest) for rate in rates[:-1]}
    verdict, p = decide(
        all_of(*(above(part, lost, FEW) for part in lower), *(p for _, p in tests.values())),
        all_of(above(highest), below(lower[0])),
    )
    until = int(runs["train.steps"].max())
    remarks = (
        f"Lost within {until} steps: {', '.join(f'{count(part)} at {rate:g}' for rate, part in parts.items())}.",
        *(f"In steps, {rate:g} against {rates[-1]:g}: {test}." for rate, (test, _) in tests.items()),
    )
    return Judgement(verdict, arms[0][1], f"share lost at {rates[0]:g} within {until} steps", p, arms, remarks)


def _later(slow: pd.DataFrame, fast: pd.DataFrame) -> tuple[survival.LogRank, float]:
    """The log-rank test between two rates in steps, and its p-value: 1 where the lower rate loses nets sooner."""
    both = graded(pd.concat([slow, fast]))
    times = survival.times(both)
    rates = both.loc[times.index, "optim.lr"]
    test = survival.logrank(times["held"], times["end"] == "event", rates)
    group = test.groups.loc[slow["optim.lr"].iloc[0]]
    return test, test.p if group["observed"] < group["expected"] else 1.0


def warm_up(results: Mapping[str, Results]) -> Judgement:
    """Whether nets are lost after a warm-up as they are without: of the runs not lost by its end, the share that is."""
    constant, two_phase = where(results["warmup"]), where(results["warmup_two_phase"])
    parts = {
        f"constant, {rate:g}": part
        for rate, part in constant.groupby("optim.warmup.lr")
        if rate < part["optim.lr"].iloc[0]
    }
    ended = two_phase["optim/switch_step"].notna() if "optim/switch_step" in two_phase else False
    switched = two_phase[ended & pd.Series(True, two_phase.index)]
    parts[f"two-phase, {two_phase['optim.warmup.lr'].iloc[0]:g}"] = switched
    control = constant[constant["optim.warmup.lr"] == constant["optim.lr"]]
    after = {name: part[~(died(part) & (part["outcome_step"] < _end(part)))] for name, part in parts.items()}
    verdict, p = decide(
        all_of(*(above(part) for part in after.values())), any_of(*(cures(part, control) for part in after.values()))
    )
    arms = [(name, share(part)) for name, part in after.items()] + [("no warm-up", share(control))]
    least = min(arms[:-1], key=lambda arm: arm[1].value)
    remarks = [f"Lost after the switch: {', '.join(f'{count(part)} ({name})' for name, part in after.items())}."]
    remarks.append(f"Without a warm-up {count(control)}.")
    remarks.append(_accuracies(after))
    if len(switched) < len(two_phase):
        remarks.append(f"In {len(two_phase) - len(switched)} runs the two-phase warm-up never ended; left out.")
    return Judgement(verdict, least[1], f"share lost after the switch, {least[0]}", p, arms, tuple(remarks))


def _accuracies(parts: Mapping[str, pd.DataFrame]) -> str:
    told = ", ".join(f"{part[health.ACCURACY].median():.2f} ({name})" for name, part in parts.items())
    return f"Median held-out accuracy: {told}."


def _end(runs: pd.DataFrame) -> pd.Series[Any]:
    """The step at which each run's warm-up ended."""
    constant = runs["optim.warmup.steps"]
    return runs["optim/switch_step"].fillna(constant) if "optim/switch_step" in runs else constant


def foretold(results: Mapping[str, Results]) -> Judgement:
    """Whether early readings rank the runs by their loss better than their configuration does: the gain in AUC."""
    runs, rows = graded(results["filters"].runs), results["filters"].rows
    [line] = early_warning.by_step(runs, rows, [FORETOLD_AT]).to_dict("records")
    n = int(line["n"])
    found = {name: Estimate(line[name], line[f"{name}_low"], line[f"{name}_high"], n) for name in
             ("auc", "within", "baseline", "gain")}  # fmt: skip
    gain = found["gain"]
    verdict: Verdict = "holds" if gain.low > 0 else "does not hold" if gain.high < 0 else "undecided"
    arms = [
        ("readings", found["auc"]),
        ("readings, within a cell", found["within"]),
        ("width, scale and rate alone", found["baseline"]),
    ]
    remarks = (f"At step {FORETOLD_AT}, {n} runs alive, {line['died']:.0f} of which were lost later.",)
    return Judgement(verdict, gain, "gain in AUC over width, scale and rate", p_beyond(gain, 0.0), arms, remarks)


def draw_warning(results: Mapping[str, Results]) -> Figure:
    """The AUC against the step of the prediction."""
    steps = [0, 5, 10, 20, 30, 40, 60]
    table = early_warning.by_step(graded(results["filters"].runs), results["filters"].rows, steps)
    return warning_curve.warning_curve(table, ("Loss", "got lost"))


_EXACT = "(exact one-sided tests, p < 0.05)"

CLAIMS = (
    Claim(
        "C2a",
        "Nets are lost in training, not at initialisation",
        "paper",
        ("filters",),
        f"of the runs that were lost, the share with 99 % of the units dead on the first batch; {LOST}",
        f"holds if it is below 10 %, does not hold if above {_EXACT}",
        in_training,
        "share of the runs lost",
        "The paper's tens of thousands of steps take GPUs: "
        "`harness sweep experiments/paper/section_3_3.yaml --per-gpu 1`.",
        metrics=(BATCH,),
        needs=NEEDS_NONE,
    ),
    Claim(
        "C2b",
        "Death is for good: no unit comes back",
        "control",
        ("revival",),
        "of the runs that died (every unit dead) and were trained on, the share in which a check found a live "
        "unit again",
        f"holds if it is below 10 %, does not hold if above {_EXACT}",
        for_good,
        "share of the runs that died",
        needs=NEEDS_NONE,
    ),
    Claim(
        "C3",
        "A lower learning rate delays the loss and does not remove it",
        "paper",
        ("learning_rate",),
        "share lost within 1000 steps at a half and a third of the paper's rate, where 200 at the full one lose "
        "most; log-rank "
        f"test in steps; {LOST}",
        f"holds if at either lower rate more than 10 % are lost {_EXACT} and later than at the full one "
        "(log-rank, p < 0.05); "
        "does not hold if at the full rate most are lost, and at the lowest less than half (restated: before, "
        "shares at one "
        "cumulative rate, too short to tell a delay from a cure)",
        lower_rate,
        "share lost",
        needs=NEEDS,
    ),
    Claim(
        "C5",
        "A warm-up does not help: nets are lost after the switch",
        "paper",
        ("warmup", "warmup_two_phase"),
        f"share lost after the switch, for constant warm-ups (1e-5, a tenth) and the two-phase one; {LOST}",
        "holds if in every arm it is above 50 %; does not hold if without a warm-up it is, and in some arm most "
        f"nets learn {_EXACT}",
        warm_up,
        "share lost",
        needs=NEEDS,
    ),
    Claim(
        "C13",
        f"Readings of the first {FORETOLD_AT} steps foretell the loss better than width, scale and rate",
        "ours",
        ("filters",),
        "AUC of the readings less that of the configuration, among runs alive then, cross-validated over cells; "
        "nets that are "
        "lost without having died count as lost at their last step",
        "holds if its 95 % interval lies above 0, does not hold if below",
        foretold,
        "area under the ROC curve",
        draw=draw_warning,
        metrics=early_warning.READINGS,
    ),
)
