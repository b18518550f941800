"""Claims about what may prevent the death, and what scaling costs: C4, C6, C8, C10 and C14."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from analysis.claims.arms import MOST, at_least, at_most, collapsed, count, died, pooled, share, where
from analysis.claims.claim import ALPHA, Claim, Judgement, Verdict
from analysis.frames.columns import demand
from analysis.frames.results import Results
from analysis.statistics import contrasts, survival
from analysis.statistics.estimates import Estimate, mean, share_difference

MARGIN = 0.05
"""Difference in held-out accuracy that is no harm, or no gain."""
HARDLY = 16.0
"""Steps of life that are hardly a difference: a tenth of the run."""


def batch_norm(place: str, helps: bool, results: Mapping[str, Results]) -> Judgement:
    """Whether a further batch-norm at a place prevents the collapse; `helps` is what the claim says."""
    runs = where(results["batch_norm"], model__residual_scale=1.0)
    treated, control = (runs[runs["model.batch_norm"] == where_] for where_ in (place, "paper"))
    difference, p = share_difference(
        int(collapsed(treated).sum()), len(treated), int(collapsed(control).sum()), len(control)
    )
    prevented = at_most(treated, collapsed) < MOST and p < ALPHA
    persists = at_least(treated, collapsed) > MOST
    yes, no = (prevented, persists) if helps else (persists, prevented)
    verdict: Verdict = "holds" if yes else "does not hold" if no else "undecided"
    scaled = where(results["batch_norm"], model__residual_scale=0.1, model__batch_norm=place)
    arms = [
        ("with it, scale 1", share(treated, collapsed)),
        ("without, scale 1", share(control, collapsed)),
        ("with it, scale 0.1 (control)", share(scaled, collapsed)),
    ]
    remarks = (
        f"Collapsed: {count(treated, collapsed)} with it, {count(control, collapsed)} without; at scale 0.1 "
        f"{count(scaled, collapsed)}.",
    )
    return Judgement(verdict, difference, "change of the share that collapsed", p if helps else float("nan"), arms,
                     remarks)  # fmt: skip


def no_harm(results: Mapping[str, Results]) -> Judgement:
    """Whether scales 0.1 and 0.3 harm held-out accuracy where every unscaled net survived: pairs of one seed."""
    runs = where(results["accuracy"])
    runs = contrasts.spared_cells(runs, "model.residual_scale", 1.0)
    if runs.empty:
        nothing = Estimate(float("nan"), float("nan"), float("nan"), 0, note="some unscaled run died")
        return Judgement("undecided", nothing, "change of held-out accuracy")
    found = {
        scale: contrasts.difference(runs, "val/accuracy", "model.residual_scale", scale, 1.0) for scale in (0.1, 0.3)
    }
    tests = {scale: contrasts.equivalence(each.by_seed.to_numpy(), MARGIN) for scale, each in found.items()}
    p = max(test.not_lower for test in tests.values())
    harmed = any(each.estimate.high < -MARGIN for each in found.values())
    verdict: Verdict = "does not hold" if harmed else "holds" if p < ALPHA else "undecided"
    arms = [(f"scale {scale:g} less scale 1", each.estimate) for scale, each in found.items()]
    worst = min(arms, key=lambda arm: arm[1].value)
    level = runs.groupby("model.residual_scale")["val/accuracy"].mean()
    remarks = (f"Mean accuracy: {', '.join(f'{value:.3f} at {scale:g}' for scale, value in level.items())}.",)
    return Judgement(verdict, worst[1], f"accuracy, {worst[0]}", p, arms, remarks)


def bias(results: Mapping[str, Results]) -> Judgement:
    """Whether nets without a trained bias in the up-projections die at other times: log-rank, and mean steps lived."""
    times = survival.times(results["bias"].runs)
    runs = results["bias"].runs.loc[times.index]
    event = times["end"] == "event"
    test = survival.logrank(times["held"], event, runs["model.up_projection_bias"], runs["optim.lr"])
    with_bias = runs["model.up_projection_bias"] == "on"
    until = float(times.loc[~event, "held"].min()) if (~event).any() else float(times["held"].max())
    longer = survival.restricted_mean_difference(times["held"], event, ~with_bias, until)
    same = longer.has_interval and longer.low > -HARDLY and longer.high < HARDLY
    verdict: Verdict = "holds" if test.p < ALPHA else "does not hold" if same else "undecided"
    arms = [
        (f"bias {kind}, rate {rate:g}", share(part))
        for (rate, kind), part in runs.groupby(["optim.lr", "model.up_projection_bias"])
    ]
    return Judgement(verdict, longer, f"steps lived longer without a trained bias, of {until:g}", test.p, arms,
                     (f"{test}, stratified by the rate.",))  # fmt: skip


def optimizers(results: Mapping[str, Results]) -> Judgement:
    """Whether each optimizer has a rate at which most unscaled nets die and most scaled ones do not."""
    runs = pooled(*(where(results[name]) for name in ("optimizers", "optimizers_sgd", "optimizers_epsilon")))
    arms: list[tuple[str, Estimate]] = []
    kills, spares = 0, 0
    remarks: list[str] = []
    keys = ["optim.name", "optim.momentum", "optim.eps"]
    for (name, momentum, eps), part in runs.groupby(keys, dropna=False):
        words = f"{name}, momentum {momentum:g}" + (f", ε {eps:g}" if part["optim.eps"].notna().any() else "")
        bare = part[part["model.residual_scale"] == 1]
        by_rate = {float(rate): bare[bare["optim.lr"] == rate] for rate in sorted(bare["optim.lr"].unique())}
        rate, worst = max(by_rate.items(), key=lambda item: share(item[1]).value)
        scaled = part[(part["model.residual_scale"] == 0.1) & (part["optim.lr"] == rate)]
        arms += [(f"{words}, rate {rate:g}", share(worst)), ("   the same, scale 0.1", share(scaled))]
        kills += at_least(worst) > MOST and at_most(scaled) < MOST
        spares += all(at_most(at_that) < MOST for at_that in by_rate.values())
        remarks.append(f"{words}: {count(worst)} died at rate {rate:g}, {count(scaled)} when scaled.")
    groups = len(arms) // 2
    verdict: Verdict = "holds" if kills == groups else "does not hold" if spares else "undecided"
    effect = Estimate(kills, float("nan"), float("nan"), len(runs))
    return Judgement(
        verdict, effect, f"of {groups} optimizers kill only unscaled nets", arms=arms, remarks=tuple(remarks)
    )


def clipping(results: Mapping[str, Results]) -> Judgement:
    """Whether some largest norm of the gradient prevents the death: its died share against that without clipping."""
    runs = where(results["clipping"])
    control = where(results["filters"], model__width=0.0625, model__residual_scale=1.0, optim__lr=0.3)
    control = control[control["seed"].isin(runs["seed"])]
    parts = {norm: runs[runs["optim.clip_norm"] == norm] for norm in sorted(runs["optim.clip_norm"].unique())}
    best = min(parts.values(), key=lambda part: share(part).value)
    difference, p = share_difference(int(died(best).sum()), len(best), int(died(control).sum()), len(control))
    p = min(1.0, p * len(parts))
    prevented = at_most(best) < MOST and p < ALPHA
    persists = all(at_least(part) > MOST for part in parts.values())
    verdict: Verdict = "holds" if prevented else "does not hold" if persists else "undecided"
    arms = [(f"norm at most {norm:g}", share(part)) for norm, part in parts.items()] + [("no clipping", share(control))]
    return Judgement(verdict, difference, "change of the died share by the best norm", p, arms)


def sum_norm_costs(results: Mapping[str, Results]) -> Judgement:
    """Whether batch-norm on the sums slows a step, and whether it gains accuracy: pairs of one seed."""
    gain = contrasts.difference(
        pooled(where(results["accuracy"], model__residual_scale=1.0), where(results["accuracy_sum_norm"])),
        "val/accuracy", "model.batch_norm", "after_sum", "paper",
    )  # fmt: skip
    test = contrasts.equivalence(gain.by_seed.to_numpy(), MARGIN)
    lived = where(results["batch_norm"], model__residual_scale=0.1, outcome="survived")
    demand(lived, "time/elapsed", "time/check", "time/probe")
    seconds = (lived["time/elapsed"] - lived["time/check"] - lived["time/probe"]) / lived["last_step"]
    of_seed = lived.assign(seconds=seconds.astype(float)).pivot(
        index="seed", columns="model.batch_norm", values="seconds"
    )
    ratio = mean((of_seed["after_sum"] / of_seed["paper"]).dropna())
    gained = gain.estimate.low > MARGIN
    verdict: Verdict = "does not hold" if gained or ratio.high < 1 else "undecided"
    if ratio.low > 1 and test.not_higher < ALPHA and not gained:
        verdict = "holds"
    arms = [("gain in accuracy", gain.estimate), ("time of a step, ratio less 1", _less_one(ratio))]
    remarks = (
        f"A step takes {ratio} times as long.",
        "Its peak memory is not recorded on a CPU: that half of the claim is open.",
    )
    return Judgement(verdict, gain.estimate, "gain in held-out accuracy", test.not_higher, arms, remarks)


def _less_one(ratio: Estimate) -> Estimate:
    return Estimate(ratio.value - 1, ratio.low - 1, ratio.high - 1, ratio.n, ratio.unit)


_PLACES = {
    "pre_pool": ("C4a", "A further batch-norm before the last ReLU does not help", "paper", False),
    "branch_output": ("C4b", "A further batch-norm on the branches' outputs prevents the collapse", "ours", True),
    "after_sum": ("C4c", "A further batch-norm on the residual sums prevents the collapse", "ours", True),
}
_PREVENTS = "prevents: bound of the share below 50 % and Fisher's p < 0.05 against none; persists: bound above 50 %"

CLAIMS = (
    *(
        Claim(
            name,
            words,
            source,
            ("batch_norm",),
            "share of unscaled runs that collapsed (inert units), with and without it",
            f"holds if it {'prevents' if helps else 'persists'}, does not hold if it "
            f"{'persists' if helps else 'prevents'}; {_PREVENTS}",
            partial(batch_norm, place, helps),
            "share that collapsed",
        )
        for place, (name, words, source, helps) in _PLACES.items()
    ),
    Claim(
        "C6",
        "Where it is not needed, scaling does not hurt held-out accuracy",
        "paper",
        ("accuracy",),
        "accuracy at scales 0.1 and 0.3 less that at 1 of the same seed, where every unscaled run survived",
        f"holds if both are above -{MARGIN:g} (one-sided t-test, p < 0.05), does not hold if an interval lies below it",
        no_harm,
        "difference in held-out accuracy",
        "Digits after 320 steps; for ImageNet at the end of training: experiments/paper/.",
    ),
    Claim(
        "C8",
        "Freezing or removing the up-projections' bias changes death",
        "ours",
        ("bias",),
        "log-rank between trained, frozen and absent bias, stratified by the rate; mean steps lived",
        f"holds if p < 0.05, does not hold if without a trained bias runs live within {HARDLY:g} steps as long",
        bias,
        "share that died",
    ),
    Claim(
        "C10a",
        "Death is not one optimizer's: each has a rate that kills unscaled nets only",
        "ours",
        ("optimizers", "optimizers_sgd", "optimizers_epsilon"),
        "for each optimizer the (lowest) rate at which most unscaled runs died, and the share there at scale 0.1",
        "holds if for each the bound is above 50 % unscaled and below 50 % scaled; does not hold if for one it is "
        "below 50 % at every rate",
        optimizers,
        "share that died",
    ),
    Claim(
        "C10b",
        "Clipping the gradient's norm prevents the death",
        "ours",
        ("clipping", "filters"),
        "died share with a largest norm of 0.1, 1 and 10, and without",
        "holds if at some norm the bound is below 50 % (Fisher's p < 0.05, by Bonferroni), does not hold if at each it "
        "is above 50 %",
        clipping,
        "share that died",
    ),
    Claim(
        "C14",
        "Batch-norm on the sums costs time and memory and gains no accuracy",
        "paper",
        ("accuracy", "accuracy_sum_norm", "batch_norm"),
        "held-out accuracy with less without, by seed; ratio of the time of a step among runs of one sweep",
        f"holds if a step is slower (interval above 1) and the gain below {MARGIN:g} (one-sided t-test, p < 0.05); "
        f"does not hold if a step is faster or the gain above {MARGIN:g}",
        sum_norm_costs,
        "difference",
    ),
)
