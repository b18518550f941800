"""Claims about when nets die, how rates and warm-ups move that, and what foretells it: C2, C3, C5 and C13."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.claims.arms import FEW, MOST, at_least, at_most, count, died, never, share, where
from analysis.claims.claim import ALPHA, Claim, Judgement, Verdict
from analysis.figures import warning_curve
from analysis.frames.results import Results
from analysis.statistics import early_warning, survival
from analysis.statistics.estimates import Estimate, share_difference

FORETOLD_AT = 20
"""Step at which death is to be foretold."""


def _at_birth(runs: pd.DataFrame) -> pd.Series[bool]:
    return died(runs) & runs["outcome_last_live_step"].isna()


def _revived(runs: pd.DataFrame) -> pd.Series[bool]:
    return runs["revival_step"].notna()


def in_training(results: Mapping[str, Results]) -> Judgement:
    """Whether nets die in training: of the runs that died, the share that no check ever saw alive."""
    runs = where(results["filters"])
    dead = runs[died(runs)]
    estimate = share(dead, _at_birth)
    first = results["filters"].rows.merge(dead[["run_id"]], on="run_id")
    at_start = first.loc[first["step"] == 0, "prepool/dead_share_batch"]
    remarks = (
        f"Of the runs that died, {count(dead, _at_birth)} were dead at step 0.",
        f"Their units dead on the first batch: median {at_start.median():.0%}, at most {at_start.max():.0%}.",
    )
    return Judgement(never(dead, _at_birth), estimate, "share dead at step 0", arms=[("dead at step 0", estimate)],
                     remarks=remarks)  # fmt: skip


def for_good(results: Mapping[str, Results]) -> Judgement:
    """Whether death is for good: of the runs that died and were trained on, the share in which a unit came back."""
    runs = where(results["revival"])
    dead = runs[died(runs)]
    estimate = share(dead, _revived)
    after = (dead["last_step"] - dead["outcome_step"]).median()
    remarks = (f"{count(dead, _revived)} had a live unit again, in a median of {after:.0f} steps that were watched.",)
    return Judgement(never(dead, _revived), estimate, "share that revived", arms=[("revived", estimate)],
                     remarks=remarks)  # fmt: skip


def lower_rate(results: Mapping[str, Results]) -> Judgement:
    """Whether a lower rate delays death and no more: died shares at one cumulative rate, death times in steps."""
    runs = where(results["learning_rate"])
    rates = sorted(runs["optim.lr"].unique())
    reach = 160 * max(rates)
    parts = {rate: runs[runs["optim.lr"] == rate] for rate in rates}
    by_then = {rate: _died_by(part, reach / rate) for rate, part in parts.items()}
    arms = [(f"rate {rate:g}", share(part)) for rate, part in by_then.items()]
    slow, fast = by_then[rates[0]], by_then[rates[-1]]
    lost = share_difference(int(died(slow).sum()), len(slow), int(died(fast).sum()), len(fast))[0]
    times = survival.times(pd.concat([parts[rates[0]], parts[rates[-1]]]))
    groups = runs.loc[times.index, "optim.lr"]
    test = survival.logrank(times["held"], times["end"] == "event", groups)
    later = test.groups.loc[rates[0], "observed"] < test.groups.loc[rates[0], "expected"]
    verdict: Verdict
    if lost.high < -MOST:
        verdict = "does not hold"
    elif later and test.p < ALPHA and all(at_least(part) > FEW for part in by_then.values()):
        verdict = "holds"
    else:
        verdict = "undecided"
    counts = ", ".join(f"{count(part)} at {rate:g}" for rate, part in by_then.items())
    remarks = (
        f"At equal cumulative rate ({reach:g}) {counts} had died.",
        f"In steps, {rates[0]:g} against {rates[-1]:g}: {test}.",
    )
    return Judgement(verdict, lost, "died share at the lowest rate less that at the highest", test.p, arms, remarks)


def _died_by(runs: pd.DataFrame, step: float) -> pd.DataFrame:
    """The runs, those that died later counted as alive."""
    late = died(runs) & (runs["outcome_step"] > step)
    return runs.assign(outcome=runs["outcome"].where(~late, "survived"))


def warm_up(results: Mapping[str, Results]) -> Judgement:
    """Whether nets die after a warm-up as they do without: of the runs alive at its end, the share that died."""
    constant, two_phase = where(results["warmup"]), where(results["warmup_two_phase"])
    parts = {
        f"constant, {rate:g}": part
        for rate, part in constant.groupby("optim.warmup.lr")
        if rate < part["optim.lr"].iloc[0]
    }
    ended = two_phase["optim/switch_step"].notna() if "optim/switch_step" in two_phase else False
    switched = two_phase[ended & pd.Series(True, two_phase.index)]
    parts["two-phase, 0.03"] = switched
    control = constant[constant["optim.warmup.lr"] == constant["optim.lr"]]
    after = {name: part[~(died(part) & (part["outcome_step"] < _end(part)))] for name, part in parts.items()}
    arms = [(name, share(part)) for name, part in after.items()] + [("no warm-up", share(control))]
    verdict: Verdict
    if any(at_most(part) < MOST for part in after.values()):
        verdict = "does not hold"
    elif all(at_least(part) > MOST for part in after.values()):
        verdict = "holds"
    else:
        verdict = "undecided"
    least = min(arms[:-1], key=lambda arm: arm[1].value)
    remarks = [f"Died after the switch: {', '.join(f'{count(part)} ({name})' for name, part in after.items())}."]
    remarks.append(f"Without a warm-up {count(control)}.")
    if len(switched) < len(two_phase):
        remarks.append(f"In {len(two_phase) - len(switched)} runs the two-phase warm-up never ended; left out.")
    return Judgement(verdict, least[1], f"share that died after the switch, {least[0]}", arms=arms,
                     remarks=tuple(remarks))  # fmt: skip


def _end(runs: pd.DataFrame) -> pd.Series[Any]:
    """The step at which each run's warm-up ended."""
    constant = runs["optim.warmup.steps"]
    return runs["optim/switch_step"].fillna(constant) if "optim/switch_step" in runs else constant


def foretold(results: Mapping[str, Results]) -> Judgement:
    """Whether early readings rank the runs by their death better than their configuration does: the gain in AUC."""
    runs, rows = results["filters"].runs, results["filters"].rows
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
    remarks = (f"At step {FORETOLD_AT}, {n} runs alive, {line['died']:.0f} of which died later.",)
    return Judgement(verdict, gain, "gain in AUC over width, scale and rate", arms=arms, remarks=remarks)


def draw_warning(results: Mapping[str, Results]) -> Figure:
    """The AUC against the step of the prediction."""
    return warning_curve.warning_curve(
        early_warning.by_step(results["filters"].runs, results["filters"].rows, [0, 5, 10, 20, 30, 40, 60])
    )


CLAIMS = (
    Claim(
        "C2a",
        "Death comes in training, not at initialisation",
        "paper",
        ("filters",),
        "of the runs that died, the share dead at step 0",
        "holds if at least 29 died and the one-sided 95 % bound is below 10 %, does not hold if the lower one is above",
        in_training,
        "share of the runs that died",
        "The paper's tens of thousands of steps take GPUs: "
        "`harness sweep experiments/paper/section_3_3.yaml --per-gpu 1`.",
        metrics=("prepool/dead_share_batch",),
    ),
    Claim(
        "C2b",
        "Death is for good: no unit comes back",
        "control",
        ("revival",),
        "of the runs that died and were trained on, the share in which a check found a live unit again",
        "as C2a",
        for_good,
        "share of the runs that died",
    ),
    Claim(
        "C3",
        "A lower learning rate delays death and does not remove it",
        "paper",
        ("learning_rate",),
        "died share at a quarter of the rate less that at the full rate, at equal cumulative rate; log-rank in steps",
        "holds if deaths come later in steps (p < 0.05) and at every rate the one-sided bound of the died share is "
        "above 10 %; does not hold if the difference lies below -50 %",
        lower_rate,
        "share that died by an equal cumulative rate",
    ),
    Claim(
        "C5",
        "A warm-up does not help: nets die after the switch",
        "paper",
        ("warmup", "warmup_two_phase"),
        "share that died after the switch, for constant warm-ups (1e-5, a tenth) and the two-phase one",
        "holds if in every arm the one-sided bound is above 50 %, does not hold if in some arm it is below",
        warm_up,
        "share that died",
    ),
    Claim(
        "C13",
        f"Readings of the first {FORETOLD_AT} steps foretell death better than width, scale and rate",
        "ours",
        ("filters",),
        "AUC of the readings less that of the configuration, among runs alive then, cross-validated over cells",
        "holds if its 95 % interval lies above 0, does not hold if below",
        foretold,
        "area under the ROC curve",
        draw=draw_warning,
        metrics=early_warning.READINGS,
    ),
)
