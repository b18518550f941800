"""Claims about the filter count and the residual scale: C1 and C12."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from analysis.claims.arms import ENOUGH, FEW, at_least, at_most, count, died, pooled, share, where
from analysis.claims.claim import ALPHA, Claim, Judgement, Verdict
from analysis.figures import dose_response
from analysis.frames.results import Results
from analysis.statistics import dose
from analysis.statistics.estimates import Estimate, share_difference

RATE = 0.2
"""Learning rate at which the filter counts are compared: some unscaled nets die and some do not (LOG.md)."""
NEAR = (500.0, 2000.0)
"""Filter counts that are near 1000: within a factor of two."""


def unscaled(results: Mapping[str, Results]) -> pd.DataFrame:
    """The runs at scale 1 and RATE, with 134 to 1072 filters before the pool."""
    parts = (where(results[name], model__residual_scale=1.0, optim__lr=RATE) for name in ("filters", "filters_wide"))
    return pooled(*parts)


def crossing(results: Mapping[str, Results]) -> Judgement:
    """Whether the filter count at which half of the unscaled nets die is near 1000."""
    runs = unscaled(results)
    found = dose.lethal_dose(runs, "prepool/units")
    low, high = found.estimate.low, found.estimate.high
    verdict: Verdict = (
        "holds"
        if found.located and low >= NEAR[0] and high <= NEAR[1]
        else "does not hold"
        if high < NEAR[0] or low > NEAR[1]
        else "undecided"
    )
    arms = [(f"{units:.0f} filters", share(part)) for units, part in runs.groupby("prepool/units")]
    return Judgement(verdict, found.estimate, "filters at which half die", arms=arms, remarks=(f"{found}.",))


def about_zero(results: Mapping[str, Results]) -> Judgement:
    """Whether about none die at scales 0.1 and 0.3 in the cells in which some unscaled net did."""
    runs = where(results["filters"])
    bare = runs[runs["model.residual_scale"] == 1]
    deadly = {cell for cell, part in bare.groupby(["model.width", "optim.lr"]) if died(part).any()}
    cells = zip(runs["model.width"], runs["optim.lr"], strict=True)
    here = runs[[cell in deadly for cell in cells]]
    parts = {scale: here[here["model.residual_scale"] == scale] for scale in (0.1, 0.3)}
    arms = [(f"scale {scale:g}", share(part)) for scale, part in parts.items()]
    arms.append(("scale 1", share(here[here["model.residual_scale"] == 1])))
    verdict: Verdict
    if any(at_least(part) > FEW for part in parts.values()):
        verdict = "does not hold"
    elif all(len(part) >= ENOUGH and at_most(part) < FEW for part in parts.values()):
        verdict = "holds"
    else:
        verdict = "undecided"
    worst = max(arms[:2], key=lambda arm: arm[1].value)
    remarks = tuple(f"At scale {scale:g} {count(part)} died." for scale, part in parts.items())
    return Judgement(verdict, worst[1], f"share that died at {worst[0]}", arms=arms, remarks=remarks)


def trunk_or_branch(results: Mapping[str, Results]) -> Judgement:
    """Whether more trunk filters, or more branch filters, raise the share that died."""
    runs = where(results["trunk_branch"])
    found: dict[str, tuple[Estimate, float]] = {}
    for name in ("trunk", "branch"):
        narrow, wide = (runs[runs[f"model.{name}_width"] == factor] for factor in (0.5, 2.0))
        found[name] = share_difference(int(died(wide).sum()), len(wide), int(died(narrow).sum()), len(narrow))
    (trunk, p_trunk), (branch, p_branch) = found["trunk"], found["branch"]
    counts = {"trunk": p_trunk < ALPHA / 2, "branch": p_branch < ALPHA / 2}
    verdict: Verdict
    if counts["trunk"] and (not counts["branch"] or trunk.low > branch.high):
        verdict = "holds"
    elif counts["branch"] and (not counts["trunk"] or branch.low > trunk.high):
        verdict = "does not hold"
    else:
        verdict = "undecided"
    arms = [("four times the trunk filters", trunk), ("four times the branch filters", branch)]
    remarks = (f"Fisher's p: trunk {p_trunk:.2g}, branch {p_branch:.2g}.",)
    return Judgement(verdict, trunk, "rise of the died share with the trunk", min(1.0, 2 * p_trunk), arms, remarks)


def draw_dose(results: Mapping[str, Results]) -> Figure:
    """The died share at scale 1 against the filters before the pool."""
    return dose_response.dose_response(unscaled(results), "prepool/units")


CLAIMS = (
    Claim(
        "C1a",
        "Unscaled nets die from about 1000 filters before the pool on",
        "paper",
        ("filters", "filters_wide"),
        f"lethal filter count at scale 1 and rate {RATE:g}, by a binomial model over 134 to 1072 filters",
        "holds if its 95 % interval lies within 500 to 2000, does not hold if it lies outside",
        crossing,
        "share that died at scale 1",
        "Whether it is near 1000 at 299x299 on ImageNet takes GPUs: "
        "`harness sweep experiments/paper/section_3_3.yaml --per-gpu 1`.",
        draw_dose,
    ),
    Claim(
        "C1b",
        "At scales 0.1 to 0.3 about none die where unscaled nets do",
        "paper",
        ("filters",),
        "share that died at 0.1 and 0.3, over the widths and rates at which some unscaled run died",
        "holds if at both at least 29 runs give a one-sided 95 % bound below 10 %, does not hold if at either the "
        "lower one is above 10 %",
        about_zero,
        "share that died",
    ),
    Claim(
        "C12",
        "Trunk filters count, rather than branch filters",
        "ours",
        ("trunk_branch",),
        "difference of the died share between twice and half of the trunk's filters, and the same of the branches'",
        "holds if the trunk's alone differs from 0 (Fisher, p < 0.025), or lies above the branches'; does not hold the "
        "other way round",
        trunk_or_branch,
        "rise of the share that died",
    ),
)
