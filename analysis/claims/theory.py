"""Claims that algebra makes, and the net without residuals: C7, C9 and C11."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from analysis.claims.arms import MOST, at_least, at_most, collapsed, count, never, share, where
from analysis.claims.claim import Claim, Judgement, Verdict
from analysis.figures import variance_growth
from analysis.frames.columns import demand
from analysis.frames.results import Results
from analysis.statistics import growth
from analysis.statistics.estimates import Estimate, mean

LINEAR = (0.9, 1.1)
"""Exponents that are as good as 1."""
EXACT, EXACT_UNTIL = 1e-5, 2
"""Relative difference of losses that is rounding, and the step until which it has not grown (tenfold a step here)."""


def linear_growth(results: Mapping[str, Results]) -> Judgement:
    """Whether the variance's growth over a stage is proportional to L and to α²: the exponents of the two."""
    stages = growth.by_stage(growth.variances(results["variance"].runs, results["variance"].rows))
    arms = [(f"stage {each.stage}, exponent of α²", each.scale) for each in stages]
    arms += [(f"stage {each.stage}, exponent of L", each.blocks) for each in stages]
    inside = all(each.low > LINEAR[0] and each.high < LINEAR[1] for _, each in arms)
    outside = any(each.high < LINEAR[0] or each.low > LINEAR[1] for _, each in arms)
    verdict: Verdict = "holds" if inside else "does not hold" if outside else "undecided"
    worst = max(arms, key=lambda arm: abs(arm[1].value - 1))
    remarks = tuple(
        f"Stage {each.stage}: a line in L·α² explains {each.explained.value:.0%} of the variance's growth."
        for each in stages
    )
    return Judgement(verdict, worst[1], worst[0], arms=arms, remarks=remarks)


def mimicry(results: Mapping[str, Results]) -> Judgement:
    """Whether scaled initial weights and rates do what a scale does: the first losses, and who dies."""
    mimic, others = results["mimic"], results["mimic_scaled"]
    off = _first_losses(mimic.runs, mimic.rows, others.runs, others.rows)
    arms: list[tuple[str, Estimate]] = []
    tested, follows, differs = False, True, off.max() >= EXACT
    remarks = [f"Plain SGD: losses of the first {EXACT_UNTIL} steps differ by at most {off.max():.1g} of their size."]
    for (name, momentum), part in where(mimic).groupby(["optim.name", "optim.momentum"]):
        same = where(others, optim__name=name, optim__momentum=momentum)
        bare, scaled = (same[same["model.residual_scale"] == scale] for scale in (1.0, 0.1))
        words = f"{name}, momentum {momentum:g}"
        arms += [(f"{words}: mimic", share(part)), ("   scale 0.1", share(scaled)), ("   scale 1", share(bare))]
        if share(bare).value >= MOST:
            tested = True
            follows &= at_most(part) < MOST
            differs |= at_least(part) > MOST
        remarks.append(f"{words}: died {count(part)} as mimic, {count(scaled)} at 0.1, {count(bare)} at 1.")
    verdict: Verdict = "does not hold" if differs else "holds" if tested and follows else "undecided"
    effect = Estimate(float(off.max()), float("nan"), float("nan"), len(off), "seeds")
    return Judgement(verdict, effect, "largest relative difference of SGD's first losses", arms=arms,
                     remarks=tuple(remarks))  # fmt: skip


def _first_losses(
    mimic: pd.DataFrame, rows: pd.DataFrame, scaled: pd.DataFrame, others: pd.DataFrame
) -> pd.Series[float]:
    """For each seed of plain SGD, the largest relative difference of the losses until EXACT_UNTIL."""

    def losses(runs: pd.DataFrame, rows: pd.DataFrame) -> pd.Series[float]:
        plain = runs[(runs["optim.name"] == "sgd") & (runs["optim.momentum"] == 0) & (runs["state"] == "finished")]
        first = rows[(rows["step"] <= EXACT_UNTIL) & rows["train/loss"].notna()]
        both = first[["run_id", "step", "train/loss"]].merge(plain[["run_id", "seed"]], on="run_id")
        return both.set_index(["seed", "step"])["train/loss"].astype(float)

    ours, theirs = losses(mimic, rows), losses(scaled[scaled["model.residual_scale"] == 0.1], others)
    return ((ours - theirs).abs() / theirs).dropna().groupby("seed").max()


def without_residuals(results: Mapping[str, Results]) -> Judgement:
    """Whether Inception-v4 collapses at all where residual nets of as many filters do."""
    plain = where(results["inception_v4"])
    residual = where(results["filters"], model__width=0.125, model__residual_scale=1.0, optim__lr=0.3)
    arms = [("Inception-v4", share(plain, collapsed)), ("residual, scale 1", share(residual, collapsed))]
    remarks = (
        f"Collapsed: {count(plain, collapsed)} of Inception-v4, {count(residual, collapsed)} of the unscaled residual "
        "nets at the same rate.",
    )
    return Judgement(never(plain, collapsed), arms[0][1], "share of Inception-v4 that collapsed", arms=arms,
                     remarks=remarks)  # fmt: skip


def faster(results: Mapping[str, Results]) -> Judgement:
    """Whether residual nets have the lower training loss, mean over the run: pairs of one seed."""
    means: dict[str, pd.Series[float]] = {}
    for name, runs in (("v4", where(results["accuracy_v4"])),
                       ("residual", where(results["accuracy"], model__residual_scale=0.1))):  # fmt: skip
        demand(runs, "val/accuracy")
        source = results["accuracy_v4" if name == "v4" else "accuracy"]
        rows = source.rows.merge(runs[["run_id", "seed"]].rename(columns={"seed": "of_seed"}), on="run_id")
        means[name] = rows.groupby("of_seed")["train/loss"].mean().astype(float)
    slower = mean((means["v4"] - means["residual"]).dropna())
    verdict: Verdict = "holds" if slower.low > 0 else "does not hold" if slower.high < 0 else "undecided"
    arms = [("Inception-v4", mean(means["v4"])), ("residual, scale 0.1", mean(means["residual"]))]
    ends = [part["val/accuracy"].mean() for part in
            (where(results["accuracy_v4"]), where(results["accuracy"], model__residual_scale=0.1))]  # fmt: skip
    remarks = (f"Held-out accuracy at the end: {ends[0]:.3f} of Inception-v4, {ends[1]:.3f} of the residual nets.",)
    return Judgement(verdict, slower, "mean training loss, Inception-v4 less residual", arms=arms, remarks=remarks)


def draw_growth(results: Mapping[str, Results]) -> Figure:
    """The growth of the variance against L * alpha^2."""
    return variance_growth.variance_growth(growth.variances(results["variance"].runs, results["variance"].rows))


_SUMS = tuple(f"block/b{number:02}/{name}/channel_variance" for number in range(1, 25) for name in ("sum", "skip"))

CLAIMS = (
    Claim(
        "C7",
        "The stream's variance at initialisation grows linearly in L·α²",
        "F2",
        ("variance",),
        "exponents of the growth over a stage in α² and in the number of blocks L, by least squares of logarithms",
        f"holds if all intervals lie within {LINEAR[0]:g} to {LINEAR[1]:g}, does not hold if one lies outside",
        linear_growth,
        "exponent",
        draw=draw_growth,
        metrics=_SUMS,
    ),
    Claim(
        "C9",
        "Scaled initial weights and learning rates of the up-projections mimic a scale",
        "algebra",
        ("mimic", "mimic_scaled"),
        "relative difference of plain SGD's first losses; died share of the mimics of 0.1 where unscaled nets die",
        f"holds if the losses of the first {EXACT_UNTIL} steps agree to {EXACT:g} (amended from 10 steps to 0.001, "
        "which rounding alone exceeds) and, where most unscaled nets died, the bound of the mimics' share is below "
        "50 %; does not hold if the losses differ or a bound is above 50 %",
        mimicry,
        "share that died",
        metrics=("train/loss",),
    ),
    Claim(
        "C11a",
        "Inception-v4, without residuals, never dies",
        "paper",
        ("inception_v4", "filters"),
        "share that collapsed (inert units before the pool) at the filters and rate at which residual nets die",
        "holds if at least 29 runs give a one-sided 95 % bound below 10 %, does not hold if the lower one is above",
        without_residuals,
        "share that collapsed",
    ),
    Claim(
        "C11b",
        "Residual nets train faster than Inception-v4",
        "paper",
        ("accuracy", "accuracy_v4"),
        "training loss, mean over the 320 steps, of Inception-v4 less that of the residual net of the same seed",
        "holds if its 95 % interval lies above 0, does not hold if below",
        faster,
        "mean training loss (nats)",
        metrics=("train/loss",),
    ),
)
