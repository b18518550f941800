"""Claims that algebra makes, and the net without residuals: C7, C9 and C11."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from analysis.claims.arms import (
    FEW,
    LOST,
    MOST,
    NEEDS,
    NEEDS_NONE,
    above,
    all_of,
    any_of,
    below,
    collapsed,
    count,
    decide,
    share,
    where,
)  # fmt: skip
from analysis.claims.claim import Claim, Judgement
from analysis.figures import variance_growth
from analysis.frames.columns import demand
from analysis.frames.results import Results
from analysis.statistics import growth
from analysis.statistics.estimates import Estimate, mean, p_beyond

LINEAR = (0.9, 1.1)
"""Exponents that are as good as 1."""
EXACT, EXACT_UNTIL = 1e-5, 2
"""Relative difference of losses that is rounding, and the step until which it has not grown (tenfold a step here)."""


def linear_growth(results: Mapping[str, Results]) -> Judgement:
    """Whether what branches add to the variance over a stage is proportional to L and to α²: the two exponents."""
    table = growth.variances(results["variance"].runs, results["variance"].rows)
    stages = growth.by_stage(table, "added_until")
    arms = [(f"stage {each.stage}, exponent of α²", each.scale) for each in stages]
    arms += [(f"stage {each.stage}, exponent of L", each.blocks) for each in stages]
    low, high = LINEAR
    verdict, p = decide(
        all_of(*(p_beyond(each, end) if low < each.value < high else 1.0 for _, each in arms for end in LINEAR)),
        any_of(*(
            p_beyond(each, low) if each.value < low else p_beyond(each, high) if each.value > high else 1.0
            for _, each in arms
        )),
    )  # fmt: skip
    worst = max(arms, key=lambda arm: abs(arm[1].value - 1))
    remarks = tuple(
        f"Stage {each.stage}: a line in L·α² explains {each.explained.value:.0%} of what branches add, and of the "
        f"variance's own growth {own.explained.value:.0%} (exponents of α² {own.scale}, of L {own.blocks})."
        for each, own in zip(stages, growth.by_stage(table), strict=True)
    )
    return Judgement(verdict, worst[1], worst[0], p, arms, remarks)


def mimicry(results: Mapping[str, Results]) -> Judgement:
    """Whether scaled initial weights and rates do what a scale does: the first losses, and who is lost."""
    mimic, others = results["mimic"], results["mimic_scaled"]
    off = _first_losses(mimic.runs, mimic.rows, others.runs, others.rows)
    arms: list[tuple[str, Estimate]] = []
    exact = bool(off.max() < EXACT)
    follows, differs = [1.0], [0.0 if not exact else 1.0]
    remarks = [f"Plain SGD: losses of the first {EXACT_UNTIL} steps differ by at most {off.max():.1g} of their size."]
    for (name, momentum), part in where(mimic).groupby(["optim.name", "optim.momentum"]):
        same = where(others, optim__name=name, optim__momentum=momentum)
        bare, scaled = (same[same["model.residual_scale"] == scale] for scale in (1.0, 0.1))
        words = f"{name}, momentum {momentum:g}"
        arms += [(f"{words}: mimic", share(part)), ("   scale 0.1", share(scaled)), ("   scale 1", share(bare))]
        if share(bare).value >= MOST:
            follows.append(below(part) if exact else 1.0)
            differs.append(above(part))
        remarks.append(f"{words}: lost {count(part)} as mimic, {count(scaled)} at 0.1, {count(bare)} at 1.")
    verdict, p = decide(all_of(*(follows[1:] or follows)), any_of(*differs))
    effect = Estimate(float(off.max()), float("nan"), float("nan"), len(off), "seeds")
    return Judgement(verdict, effect, "largest relative difference of SGD's first losses", p, arms, tuple(remarks))


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
    """Whether Inception-v4 collapses at all at the rate at which unscaled residual nets do."""
    plain = {float(str(width)): part for width, part in where(results["inception_v4"]).groupby("model.width")}
    residual = where(results["filters"], model__width=0.0625, model__residual_scale=1.0, optim__lr=0.045)
    verdict, p = decide(
        all_of(*(below(part, collapsed, FEW) for part in plain.values())),
        any_of(*(above(part, collapsed, FEW) for part in plain.values())),
    )
    arms = [
        (f"Inception-v4, {part['prepool/units'].iloc[0]:.0f} filters", share(part, collapsed))
        for part in plain.values()
    ]
    worst = max(arms, key=lambda arm: arm[1].value)
    arms.append(("residual, 34 filters, scale 1", share(residual, collapsed)))
    told = ", ".join(f"{count(part, collapsed)} of width {width:g}" for width, part in plain.items())
    remarks = (
        f"Collapsed: Inception-v4 {told}; {count(residual, collapsed)} of the unscaled residual nets at the same rate.",
    )
    return Judgement(verdict, worst[1], "share of Inception-v4 that collapsed", p, arms, remarks)


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
    p = p_beyond(slower, 0.0)
    verdict, p = decide(p, 1 - p) if slower.value > 0 else decide(1 - p, p)
    arms = [("Inception-v4", mean(means["v4"])), ("residual, scale 0.1", mean(means["residual"]))]
    ends = [part["val/accuracy"].mean() for part in
            (where(results["accuracy_v4"]), where(results["accuracy"], model__residual_scale=0.1))]  # fmt: skip
    remarks = (f"Held-out accuracy at the end: {ends[0]:.3f} of Inception-v4, {ends[1]:.3f} of the residual nets.",)
    return Judgement(verdict, slower, "mean training loss, Inception-v4 less residual", p, arms, remarks)


def draw_growth(results: Mapping[str, Results]) -> Figure:
    """What branches add to the variance against L * alpha^2."""
    table = growth.variances(results["variance"].runs, results["variance"].rows)
    return variance_growth.variance_growth(table, "added_until")


_SUMS = tuple(f"block/b{number:02}/{name}/channel_variance" for number in range(1, 25) for name in ("sum", "skip"))

_EXACT = "(exact one-sided tests, p < 0.05)"

CLAIMS = (
    Claim(
        "C7",
        "What branches add to the stream's variance at initialisation grows linearly in L·α²",
        "F2",
        ("variance",),
        "exponents, in α² and in the number of blocks L, of the variance that branches have added over a stage "
        "(sum less skip, "
        "cumulated), by least squares of logarithms",
        f"holds if all lie within {LINEAR[0]:g} to {LINEAR[1]:g}, does not hold if one lies outside (p < 0.05; "
        "amended after "
        "the first runs, which these are not of: F2 is of what is added, and not of the sum's own variance, from "
        "which each ReLU "
        "takes some away)",
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
        "relative difference of plain SGD's first losses; share of the mimics of 0.1 that is lost where unscaled "
        "nets are; "
        f"{LOST}",
        f"holds if the losses of the first {EXACT_UNTIL} steps agree to {EXACT:g} (amended in an earlier regime "
        "from 10 steps to "
        "0.001, which rounding alone exceeds) and, wherever half of the unscaled nets are lost, less than half "
        "of the mimics "
        f"are; does not hold if the losses differ or more than half of the mimics are {_EXACT}",
        mimicry,
        "share lost",
        metrics=("train/loss",),
        needs=NEEDS,
    ),
    Claim(
        "C11a",
        "Inception-v4, without residuals, never dies",
        "paper",
        ("inception_v4", "filters"),
        "share that collapsed (inert units before the pool), with as many filters there as residual nets that "
        "die at that rate, "
        "and with four times as many",
        f"holds if either is below 10 %, does not hold if one is above {_EXACT}",
        without_residuals,
        "share that collapsed",
        needs=NEEDS_NONE,
    ),
    Claim(
        "C11b",
        "Residual nets train faster than Inception-v4",
        "paper",
        ("accuracy", "accuracy_v4"),
        "training loss, mean over the 300 steps, of Inception-v4 (134 filters before the pool) less that of the "
        "residual net of "
        "the same seed (34 of them, scale 0.1)",
        "holds if it is above 0, does not hold if below (p < 0.05)",
        faster,
        "mean training loss (nats)",
        "The two differ in size: the residual net has nine times the parameters.",
        metrics=("train/loss",),
    ),
)
