"""Claims about the filter count and the residual scale: C1 and C12."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

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
    decide,
    lost,
    pooled,
    share,
    where,
)  # fmt: skip
from analysis.claims.claim import Claim, Judgement
from analysis.figures import dose_response
from analysis.frames.results import Results
from analysis.statistics import contrasts, dose
from analysis.statistics.estimates import Estimate, share_difference
from harness.located import InputError

RATE = 0.045
"""The paper's learning rate, at which the filter counts are compared."""


def unscaled(results: Mapping[str, Results]) -> pd.DataFrame:
    """The runs at scale 1 and RATE: 17, 34, 67 filters before the pool, 13 times as many into an up-projection."""
    parts = (where(results[name], model__residual_scale=1.0, optim__lr=RATE) for name in ("filters", "filters_wide"))
    return pooled(*parts)


def with_filters(results: Mapping[str, Results]) -> Judgement:
    """Whether unscaled nets of four times the filters are lost more often."""
    runs = unscaled(results)
    by_width = {float(str(width)): part for width, part in runs.groupby("model.width")}
    few, many = by_width[min(by_width)], by_width[max(by_width)]
    difference, _ = share_difference(int(lost(many).sum()), len(many), int(lost(few).sum()), len(few))
    table = [[int(lost(part).sum()), int((~lost(part)).sum())] for part in (many, few)]
    verdict, p = decide(*(float(stats.fisher_exact(table, side).pvalue) for side in ("greater", "less")))
    arms = [(f"{units:.0f} filters", share(part)) for units, part in runs.groupby("prepool/units")]
    try:
        lethal = (
            f"Half are lost at {dose.lethal_dose(runs.assign(outcome=_fate(runs)), 'prepool/units').estimate} filters."
        )
    except InputError as error:
        lethal = f"No count at which half are lost: {error.problems[0]}."
    return Judgement(verdict, difference, "share lost, 67 filters less 17", p, arms, (lethal,))


def _fate(runs: pd.DataFrame) -> pd.Series[str]:
    return lost(runs).map({True: "died", False: "survived"})


def about_zero(results: Mapping[str, Results]) -> Judgement:
    """Whether about none are lost at scales 0.1 and 0.3 in the cells in which some unscaled net is."""
    runs = where(results["filters"])
    bare = runs[runs["model.residual_scale"] == 1]
    deadly = {cell for cell, part in bare.groupby(["model.width", "optim.lr"]) if lost(part).any()}
    cells = zip(runs["model.width"], runs["optim.lr"], strict=True)
    here = runs[[cell in deadly for cell in cells]]
    parts = {scale: here[here["model.residual_scale"] == scale] for scale in (0.1, 0.3)}
    verdict, p = decide(
        all_of(*(below(part, lost, FEW) for part in parts.values())),
        any_of(*(above(part, lost, FEW) for part in parts.values())),
    )
    arms = [(f"scale {scale:g}", share(part)) for scale, part in parts.items()]
    worst = max(arms, key=lambda arm: arm[1].value)
    arms.append(("scale 1", share(here[here["model.residual_scale"] == 1])))
    remarks = tuple(f"At scale {scale:g} {count(part)} were lost." for scale, part in parts.items())
    return Judgement(verdict, worst[1], f"share lost at {worst[0]}", p, arms, remarks)


def trunk_or_branch(results: Mapping[str, Results]) -> Judgement:
    """Whether more trunk filters, or more branch filters, raise the share lost, each at every count of the other."""
    runs = where(results["trunk_branch"])
    trunk, p_trunk = _doubled(runs, "model.trunk_width", "model.branch_width")
    branch, p_branch = _doubled(runs, "model.branch_width", "model.trunk_width")
    verdict, p = decide(
        p_trunk if trunk.value > max(0.0, branch.value) else 1.0,
        p_branch if branch.value > max(0.0, trunk.value) else 1.0,
    )
    arms = [("twice the trunk filters", trunk), ("twice the branch filters", branch)]
    remarks = (
        f"p of the trunk {p_trunk:.2g}, of the branches {p_branch:.2g}.",
        "Lost, trunk × branch: "
        + ", ".join(
            f"{count(part)} at {float(str(a)):g} × {float(str(b)):g}"
            for (a, b), part in runs.groupby(["model.trunk_width", "model.branch_width"])
        )
        + ".",
    )
    return Judgement(verdict, trunk, "rise of the share lost with the trunk", p, arms, remarks)


def _doubled(runs: pd.DataFrame, factor: str, other: str) -> tuple[Estimate, float]:
    """The rise of the share lost from the least to the largest level of a factor, within each level of the other."""
    strata = []
    for _, stratum in runs.groupby(other):
        many, few = (stratum[stratum[factor] == level] for level in (runs[factor].max(), runs[factor].min()))
        strata.append((int(lost(many).sum()), len(many), int(lost(few).sum()), len(few)))
    return contrasts.stratified_difference(strata)


def draw_dose(results: Mapping[str, Results]) -> Figure:
    """The share lost at scale 1 against the filters before the pool."""
    runs = unscaled(results)
    fate = dose_response.Fate("were lost", "are lost", f"{LOST[0].upper()}{LOST[1:]}.")
    return dose_response.dose_response(runs.assign(outcome=_fate(runs)), "prepool/units", fate=fate)


CLAIMS = (
    Claim(
        "C1a",
        "At one rate unscaled nets are lost the more often the more filters they have",
        "paper",
        ("filters", "filters_wide"),
        f"share lost at scale 1 and rate {RATE:g} with 67 filters before the pool less that with 17, all other "
        "counts in "
        f"proportion; {LOST}",
        "holds if it is above 0 (Fisher's exact test, one-sided, p < 0.05), does not hold if below (restated: "
        "before, that half "
        "die near 1000 filters, which depends on the rate and on the trunk, and cannot be compared at another size)",
        with_filters,
        "share lost at scale 1",
        "Whether the count is near 1000 at 299x299 on ImageNet takes GPUs: "
        "`harness sweep experiments/paper/section_3_3.yaml --per-gpu 1`.",
        draw_dose,
        needs=NEEDS,
    ),
    Claim(
        "C1b",
        "At scales 0.1 to 0.3 about none are lost where unscaled nets are",
        "paper",
        ("filters",),
        f"share lost at 0.1 and 0.3, over the widths and rates at which some unscaled run is; {LOST}",
        "holds if at both it is below 10 %, does not hold if at either it is above 10 % (exact one-sided tests, "
        "p < 0.05)",
        about_zero,
        "share lost",
        needs=NEEDS_NONE,
    ),
    Claim(
        "C12",
        "Trunk filters count, rather than branch filters",
        "ours",
        ("trunk_branch",),
        "rise of the share lost with twice the trunk's filters, mean over the counts of branch filters, and with "
        "twice the "
        f"branches', mean over the trunk's; {LOST}",
        "holds if the trunk's is above 0 (p < 0.05, Mantel-Haenszel) and above the branches', does not hold the "
        "other way round",
        trunk_or_branch,
        "rise of the share lost",
        needs=NEEDS,
    ),
)
