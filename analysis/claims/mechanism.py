"""Claims about what kills: the stability margin around the death (C19), and a dose that sorts deaths in step (C20)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from analysis.claims.arms import MOST, all_of, any_of, at_least, at_most, lost, share, where
from analysis.claims.claim import Claim, Judgement, Verdict
from analysis.figures.instruments import instruments
from analysis.frames.results import Results
from analysis.statistics.estimates import Estimate, mean, p_beyond, runs_needed, share_difference
from analysis.statistics.sorting import areas
from harness.located import InputError

MARGIN, SHARPNESS, DEAD = "curvature/margin", "curvature/sharpness", "prepool/dead_share_batch"
BEGUN = 0.5
"""Dead share of a training batch from which on a net's death has begun."""
EARLY = 20
"""Steps whose readings of the sharpness are compared between scales: few nets have lost units by then."""
_EFFECT = 0.8
"""Share of the lost runs that crossed, for which there are enough runs to show that it is most of them."""


def crosses_before(results: Mapping[str, Results]) -> Judgement:
    """Whether the margin exceeds 1 before a death begins, and stays below 1 where no net is lost."""
    runs = where(results["stability_margin"])
    rows = results["stability_margin"].rows
    read = rows[rows[MARGIN].notna()] if MARGIN in rows else rows[:0]
    if read.empty:
        raise InputError(["stability_margin: no reading of the margin"])
    begun = rows[rows[DEAD] >= BEGUN].groupby("run_id")["step"].min()
    crossed = read[read[MARGIN] > 1].groupby("run_id")["step"].min()
    runs = runs.assign(begun=runs["run_id"].map(begun), crossed=runs["run_id"].map(crossed))
    fate = lost(runs)

    def foretold(some: pd.DataFrame) -> pd.Series[bool]:
        """Crossed, and of a lost run not after its death began."""
        return some["crossed"].notna() & ~(some["crossed"] > some["begun"].where(fate[some.index]))

    dead, spared = runs[fate], runs[~fate]
    difference, p = share_difference(int(foretold(dead).sum()), len(dead), int(foretold(spared).sum()), len(spared))
    verdict: Verdict = "undecided"
    if at_least(dead, foretold) > MOST and at_most(spared, foretold) < MOST:
        verdict = "holds"
    elif at_most(dead, foretold) < MOST or at_least(spared, foretold) > MOST:
        verdict = "does not hold"
    arms = [("lost", share(dead, foretold)), ("not lost", share(spared, foretold))]
    for replicas, part in runs.groupby("optim.replicas"):
        words = "one replica" if replicas == 1 else f"{replicas} replicas"
        arms += [(f"{words}, {name}", share(some, foretold)) for name, some in _by_fate(part, fate)]
    largest = read.groupby("run_id")[MARGIN].max().reindex(runs["run_id"]).to_numpy()
    remarks = tuple(
        f"Median of the largest margin, {name}: {np.nanmedian(largest[of]):.2g}."
        for name, of in (("lost", fate.to_numpy()), ("not lost", ~fate.to_numpy()))
        if of.any() and np.isfinite(largest[of]).any()
    )
    first = read[read["step"] <= EARLY].groupby("run_id")[MARGIN].max().reindex(runs["run_id"]).to_numpy()
    if np.isfinite(first).all() and 0 < fate.sum() < len(fate):
        found = areas(pd.DataFrame({"margin": first}), fate, runs.groupby(["optim.replicas", "seed"]).ngroup())
        remarks += (f"Area under the curve of the largest margin of the first {EARLY} steps: {found.area['margin']}.",)
    words = "share that crosses, lost less not lost"
    return Judgement(verdict, difference, words, p, arms, remarks)


def _p_crosses(results: Mapping[str, Results], verdict: Verdict) -> float:
    """The p-value of the bounds by which `crosses_before` decides; of an undecided claim the smaller one."""
    (_, dead), (_, spared) = crosses_before(results).arms[:2]
    more = [stats.binomtest(round(each.value * each.n), each.n, MOST, "greater").pvalue for each in (dead, spared)]
    less = [stats.binomtest(round(each.value * each.n), each.n, MOST, "less").pvalue for each in (dead, spared)]
    p = {"holds": all_of(more[0], less[1]), "does not hold": any_of(less[0], more[1])}
    return p.get(verdict, min(p.values()))


def _p_lowers(results: Mapping[str, Results], verdict: Verdict) -> float:
    """The p-value that the geometric mean is 1, from the interval of its logarithm."""
    effect = lowers(results).effect
    value, low, high = (float(np.log(number)) for number in (effect.value, effect.low, effect.high))
    return p_beyond(Estimate(value, low, high, effect.n), 0.0)


def _p_sorts(results: Mapping[str, Results], verdict: Verdict) -> float:
    """The p-value that the dose sorts no better than the nearest of the simpler quantities, from that interval."""
    return p_beyond(dose_sorts(results).effect, 0.0)


def _by_fate(part: pd.DataFrame, fate: pd.Series[bool]) -> list[tuple[str, pd.DataFrame]]:
    of = fate[part.index]
    return [(name, some) for name, some in (("lost", part[of]), ("not lost", part[~of])) if len(some)]


def lowers(results: Mapping[str, Results]) -> Judgement:
    """Whether the early sharpness of a net scaled by 0.1 lies below that of the un-scaled net of the same seed."""
    runs = where(results["stability_margin"])
    rows = results["stability_margin"].rows
    if SHARPNESS not in rows:
        raise InputError(["stability_margin: no reading of the sharpness"])
    early = rows[(rows["step"] <= EARLY) & (rows[SHARPNESS] > 0)]
    of_run = np.log(early[SHARPNESS]).groupby(early["run_id"]).mean()
    keys = ["optim.replicas", "optim.lr", "seed", "model.residual_scale"]
    table = runs.assign(log=runs["run_id"].map(of_run)).set_index(keys)["log"].unstack()
    if not {1.0, 0.1} <= set(table.columns):
        raise InputError(["stability_margin: no pair of scale 1 and scale 0.1"])
    logs = (table[0.1] - table[1.0]).dropna()

    def ratio(some: pd.Series[float]) -> Estimate:
        found = mean(some.to_numpy(), unit="pairs")
        return Estimate(
            float(np.exp(found.value)), float(np.exp(found.low)), float(np.exp(found.high)), found.n, "pairs"
        )

    effect = ratio(logs)
    verdict: Verdict = "holds" if effect.high < 1 else "does not hold" if effect.low > 1 else "undecided"
    arms = [
        ("one replica" if replicas == 1 else f"{replicas} replicas", ratio(some))
        for replicas, some in logs.groupby(level="optim.replicas")
    ]
    return Judgement(verdict, effect, "sharpness at scale 0.1 over that at scale 1", arms=arms)


def dose_sorts(results: Mapping[str, Results]) -> Judgement:
    """Whether the dose ranks lost nets above the others better than three simpler quantities do."""
    runs = where(results["dose"])
    rate, scale, momentum = runs["optim.lr"], runs["model.residual_scale"], runs["optim.momentum"]
    widths = runs["model.branch_width"] / runs["model.trunk_width"]  # F / C but for a factor that all share
    scores = pd.DataFrame(
        {
            "dose": rate / (1 - momentum) * np.sqrt(scale * widths),
            "rate": rate,
            "rate × scale²": rate * scale**2,
            "rate / (1 - momentum)": rate / (1 - momentum),
        }
    ).astype(float)
    fields = ["optim.lr", "optim.momentum", "model.residual_scale", "model.branch_width", "model.trunk_width"]
    found = areas(scores, lost(runs), runs.groupby(fields).ngroup())
    gains = found.less
    verdict: Verdict = "undecided"
    if all(gain.low > 0 for gain in gains.values()):
        verdict = "holds"
    elif any(gain.high < 0 for gain in gains.values()):
        verdict = "does not hold"
    nearest = min(gains, key=lambda name: gains[name].value)
    arms = list(found.area.items())
    remarks = tuple(f"Area of the dose less that of {name}: {gain}." for name, gain in gains.items())
    return Judgement(verdict, gains[nearest], f"area of the dose less that of {nearest}", arms=arms, remarks=remarks)


def draw_margin(results: Mapping[str, Results]) -> Figure:
    """Margin and sharpness in the course of the runs."""
    return instruments(results["stability_margin"].runs, results["stability_margin"].rows)


_METRICS = (MARGIN, SHARPNESS, DEAD)

CLAIMS = (
    Claim(
        "C19a",
        "Death begins once the margin to linear instability is crossed",
        "hypothesis",
        ("stability_margin",),
        "share of the lost runs whose margin (rate times preconditioned sharpness over the largest stable product for "
        f"the momentum and the delay) was read above 1 before {BEGUN:.0%} of a batch's units were dead, and share of "
        "the others in which it ever was",
        "holds if the bound of the former is above 50 % and that of the latter below 50 %; does not hold if the bound "
        "of the former is below 50 % or that of the latter above 50 %",
        crosses_before,
        "share that crosses",
        draw=draw_margin,
        metrics=_METRICS,
        needs=runs_needed(_EFFECT, MOST),
        test=_p_crosses,
    ),
    Claim(
        "C19b",
        "Scaling the residual branch by 0.1 lowers the sharpness",
        "hypothesis",
        ("stability_margin",),
        f"geometric mean of the sharpness read in the first {EARLY} steps, scale 0.1 over scale 1, in pairs of one "
        "seed, rate and number of replicas",
        "holds if the interval of the ratio is below 1, does not hold if above 1",
        lowers,
        "sharpness, scale 0.1 over scale 1",
        metrics=_METRICS,
        test=_p_lowers,
    ),
    Claim(
        "C20",
        "A dose of rate, momentum, scale and widths sorts deaths in step better than the rate does",
        "hypothesis",
        ("dose",),
        "area under the curve (AUC) of lr / (1 - m) · √(α F / C), less that of lr, of lr α² and of lr / (1 - m), over "
        "lost and other nets; F filters into the up-projection, C trunk filters, m momentum, α scale; cells resampled",
        "holds if all three intervals are above 0, does not hold if one is below 0",
        dose_sorts,
        "area under the curve",
        test=_p_sorts,
    ),
)
