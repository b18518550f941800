"""Claims about asynchronous replicas, the second study's hypothesis: C15 to C18."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from analysis.claims.arms import MOST, above, all_of, any_of, at_least, at_most, below, count, lost, share, where
from analysis.claims.claim import ALPHA, Claim, Judgement, Verdict
from analysis.figures.critical_rate import critical_rate
from analysis.figures.health import health_map
from analysis.frames.results import Results
from analysis.statistics import critical, health
from analysis.statistics.estimates import NORMAL, Estimate, runs_needed, share_difference
from harness.located import InputError

EFFECT = 0.9
"""Share of an arm that is lost, or spared, for which an arm has enough runs to show that it is most of it."""
PAPERS = 20
"""Replicas of the paper."""
FACTOR = 2.0
"""A critical rate within this factor of the law follows it."""


def kills(results: Mapping[str, Results]) -> Judgement:
    """Whether replicas kill unscaled nets that live without, at one rate, and spare those scaled by 0.1."""
    runs = where(results["replicas"])
    counts = sorted(runs["optim.replicas"].unique())

    def part(scale: float, replicas: int) -> pd.DataFrame:
        return runs[(runs["model.residual_scale"] == scale) & (runs["optim.replicas"] == replicas)]

    lives = at_most(part(1.0, 1), lost) < MOST
    killing = [n for n in counts if n > 1 and at_least(part(1.0, n), lost) > MOST]
    saving = [n for n in killing if at_most(part(0.1, n), lost) < MOST]
    tests = {n: _difference(part(1.0, n), part(0.1, n)) for n in counts if n > 1}
    best = min(saving or tests, key=lambda n: tests[n][1])
    verdict: Verdict = "undecided"
    if lives and saving:
        verdict = "holds"
    elif (
        at_least(part(1.0, 1), lost) > MOST
        or all(at_most(part(1.0, n), lost) < MOST for n in tests)
        or (killing and all(at_least(part(0.1, n), lost) > MOST for n in killing))
    ):
        verdict = "does not hold"
    arms = [(f"scale {scale:g}, {_words(n)}", share(part(scale, n), lost)) for scale in (1.0, 0.3, 0.1) for n in counts]
    remarks = tuple(
        f"{_words(n).capitalize()}: {count(part(1.0, n), lost)} lost unscaled, {count(part(0.3, n), lost)} at "
        f"scale 0.3, {count(part(0.1, n), lost)} at 0.1."
        for n in counts
    )
    p = min(1.0, tests[best][1] * len(tests))
    words = f"share lost at {_words(best)}, scale 1 less scale 0.1"
    return Judgement(verdict, tests[best][0], words, p, arms, remarks)


def _p_kills(results: Mapping[str, Results], verdict: Verdict) -> float:
    """The p-value of `kills`: its own, but of the bounds where they speak against the claim."""
    if verdict != "does not hold":
        return kills(results).p
    runs = where(results["replicas"])
    late = sorted(set(runs["optim.replicas"]) - {1})

    def part(scale: float, replicas: int) -> pd.DataFrame:
        return runs[(runs["model.residual_scale"] == scale) & (runs["optim.replicas"] == replicas)]

    killing = [n for n in late if at_least(part(1.0, n), lost) > MOST]
    return any_of(
        above(part(1.0, 1)),
        all_of(*(below(part(1.0, n)) for n in late)),
        all_of(*(above(part(0.1, n)) for n in killing)) if killing else 1.0,
    )


def _difference(treated: pd.DataFrame, control: pd.DataFrame) -> tuple[Estimate, float]:
    return share_difference(int(lost(treated).sum()), len(treated), int(lost(control).sum()), len(control))


def _words(replicas: int) -> str:
    return "one replica" if replicas == 1 else f"{replicas} replicas"


def follows(momentum: float, results: Mapping[str, Results]) -> Judgement:
    """Whether the critical rate falls with the delay as linear stability says, up to one constant."""
    runs = where(results["critical_rate"], optim__momentum=momentum)
    law = critical.against_threshold(runs)
    points = law.points.set_index(critical.REPLICAS)
    within = points["ratio"].between(1 / FACTOR, FACTOR)
    far = (points["low"] / points["predicted"] > FACTOR) | (points["high"] / points["predicted"] < 1 / FACTOR)
    verdict: Verdict = "does not hold" if far.any() else "holds" if within.all() else "undecided"
    arms = [
        (f"{_words(int(str(n)))}, measured / law", Estimate(
            point["ratio"], point["low"] / point["predicted"], point["high"] / point["predicted"], int(point["runs"]),
            tested=(point["lowest"] / point["predicted"], point["highest"] / point["predicted"]),
        ))
        for n, point in points.iterrows()
    ]  # fmt: skip
    late = runs[runs[critical.REPLICAS] > 1]
    asynchronous = critical.against_threshold(late)
    remarks = (
        f"λ, the one constant: {law.curvature}.",
        f"Without the synchronous runs: exponent {asynchronous.exponent}, λ {asynchronous.curvature}.",
    )
    return Judgement(
        verdict, law.exponent, "exponent of the critical rate in the threshold", arms=arms, remarks=remarks
    )


def no_cure(remedy: Mapping[str, object], results: Mapping[str, Results]) -> Judgement:
    """Whether unscaled nets are lost with 20 replicas in spite of a remedy."""
    fields = {"optim__lr": 0.045, "model__batch_norm": "paper", "optim__warmup__name": "none"}
    treated, scaled = (
        where(results["replicas_remedies"], model__residual_scale=scale, **{**fields, **remedy}) for scale in (1.0, 0.1)
    )
    control, of_scale = (
        where(results["replicas_remedies"], model__residual_scale=scale, **fields) for scale in (1.0, 0.1)
    )
    persists, cured = at_least(treated, lost) > MOST, at_most(treated, lost) < MOST
    verdict: Verdict = "holds" if persists else "does not hold" if cured else "undecided"
    difference, _ = _difference(treated, control)
    arms = [
        ("with it, scale 1", share(treated, lost)),
        ("without, scale 1", share(control, lost)),
        ("with it, scale 0.1", share(scaled, lost)),
        ("without, scale 0.1", share(of_scale, lost)),
    ]
    accuracy, of_scaled = treated[health.ACCURACY].median(), scaled[health.ACCURACY].median()
    remarks = (
        f"Lost: {count(treated, lost)} with it, {count(control, lost)} without; at scale 0.1 {count(scaled, lost)} and "
        f"{count(of_scale, lost)}.",
        f"Median held-out accuracy with it: {accuracy:.2f} unscaled, {of_scaled:.2f} at scale 0.1.",
    )
    return Judgement(verdict, difference, "change of the share lost", arms=arms, remarks=remarks)


def _p_no_cure(remedy: Mapping[str, object], results: Mapping[str, Results], verdict: Verdict) -> float:
    """The p-value of the bound by which `no_cure` decides; of an undecided claim the smaller one."""
    fields = {"optim__lr": 0.045, "model__batch_norm": "paper", "optim__warmup__name": "none"}
    treated = where(results["replicas_remedies"], model__residual_scale=1.0, **{**fields, **remedy})
    p = {"holds": above(treated), "does not hold": below(treated)}
    return p.get(verdict, min(p.values()))


def with_filters(results: Mapping[str, Results]) -> Judgement:
    """Whether the dead share rises with the filter count at a fixed rate: by ranks, over the rates that kill some."""
    runs = where(results["replicas_width"])
    by_rate = {float(str(rate)): part for rate, part in runs.groupby("optim.lr") if 0 < lost(part).mean() < 1}
    if not by_rate:
        raise InputError(["replicas_width: no rate at which some runs are lost and some are not"])
    arms = [
        (f"width {float(str(width)):g}, rate {rate:g}", share(cell, lost))
        for rate, part in by_rate.items()
        for width, cell in part.groupby("model.width")
    ]
    pooled = pd.concat(by_rate.values())
    ranks = pooled.groupby("optim.lr")[["model.width", health.DEAD_SHARE]].rank(pct=True)
    test = stats.spearmanr(ranks["model.width"], ranks[health.DEAD_SHARE])
    rho, p, n = float(test.statistic), float(test.pvalue), len(ranks)
    low, high = (float(np.tanh(np.arctanh(rho) + sign * NORMAL / math.sqrt(max(n - 3, 1)))) for sign in (-1, 1))
    effect = Estimate(rho, low, high, n)
    verdict: Verdict = "undecided" if not p < ALPHA else "holds" if rho > 0 else "does not hold"
    exponent = critical.power_law(runs, "model.width")
    remarks = (f"Exponent of the critical rate in the width: {exponent}.",)
    return Judgement(verdict, effect, "rank correlation of the dead share with the width", p, arms, remarks)


def draw_kills(results: Mapping[str, Results]) -> Figure:
    """Health over scale and replicas."""
    return health_map(results["replicas"].runs, "optim.replicas", "model.residual_scale")


def draw_law(results: Mapping[str, Results]) -> Figure:
    """Critical rates against the delay, beside the law."""
    return critical_rate(results["critical_rate"].runs)


_LOST = "lost: died, collapsed or functionally dead (held-out accuracy at most 1.5 times chance, or 99 % of units dead)"
_REMEDIES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "C17a": ("A tenth of the rate", {"optim__lr": 0.0045}),
    "C17b": ("A warm-up at 1e-5 before the full rate", {"optim__warmup__name": "constant"}),
    "C17c": ("A further batch-norm before the pool", {"model__batch_norm": "pre_pool"}),
}
_ENOUGH = runs_needed(EFFECT, MOST)

CLAIMS = (
    Claim(
        "C15",
        "At the paper's rate replicas make nets die that live without, and scale 0.1 saves them",
        "hypothesis",
        ("replicas",),
        f"share lost by scale and number of replicas at rate 0.045; {_LOST}",
        "holds if the bound for one replica, unscaled, is below 50 % and at some number of replicas the bounds are "
        "above 50 % unscaled and below 50 % at scale 0.1 (Fisher's p < 0.05, by Bonferroni over the numbers); does not "
        "hold if one replica is above 50 %, all numbers are below it unscaled, or scale 0.1 is above it wherever 1 is",
        kills,
        "share lost",
        draw=draw_kills,
        needs=_ENOUGH,
        test=_p_kills,
    ),
    *(
        Claim(
            f"C16{letter}",
            f"With momentum {momentum:g} the critical rate falls with the delay as linear stability says",
            "theory",
            ("critical_rate",),
            f"rate at which half are lost, for each delay, over threshold / λ with one λ for all; {_LOST}",
            f"holds if every ratio is within a factor of {FACTOR:g}, does not hold if an interval lies beyond it",
            partial(follows, momentum),
            "measured critical rate / law",
            draw=draw_law if letter == "a" else None,
        )
        for letter, momentum in (("a", 0.9), ("b", 0.0))
    ),
    *(
        Claim(
            name,
            f"{words} does not save a net from {PAPERS} replicas",
            "paper",
            ("replicas_remedies",),
            f"share of unscaled nets lost, with it and without; {_LOST}",
            "holds if the bound of the share lost with it is above 50 %, does not hold if below 50 %",
            partial(no_cure, remedy),
            "share lost",
            needs=_ENOUGH,
            test=partial(_p_no_cure, remedy),
        )
        for name, (words, remedy) in _REMEDIES.items()
    ),
    Claim(
        "C18",
        "With replicas the dead share rises with the filter count at a fixed rate",
        "paper",
        ("replicas_width",),
        "Spearman's correlation of width and dead share, ranked within each rate that loses some runs and not all",
        "holds if it is positive with p < 0.05, does not hold if it is negative with p < 0.05",
        with_filters,
        "share lost",
        "At full width: experiments/paper/section_3_3_replicas.yaml.",
    ),
)
