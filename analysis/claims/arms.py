"""What the rules of claims are made of: groups of finished runs, what became of them, and the p-values of shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pandas as pd
from scipy import stats

from analysis.claims.claim import ALPHA, FAMILY, Verdict
from analysis.frames.events import EVENTS
from analysis.frames.results import Results
from analysis.statistics import health
from analysis.statistics.estimates import Estimate, exact, runs_needed, share_above, share_below
from harness.located import InputError

FEW = 0.1
"""A share of runs below this is "about zero"."""
MOST = 0.5
"""A share of runs above this is "most"."""
LEARNED = 0.5
"""Held-out accuracy from which on a net has learned its ten classes; below it, and not lost, one is half cured."""
LEVEL = 1 - ALPHA / FAMILY
"""Of the one-sided bound that numbers of runs are planned for."""
NEEDS = runs_needed(0.95, MOST, level=LEVEL)
"""Runs of an arm in which a true share of 95 % is found to be most of them, with a probability of 80 %."""
NEEDS_NONE = math.ceil(math.log(1 - LEVEL) / math.log(1 - FEW))
"""Runs that a claim of "never" takes: with none among them the bound at LEVEL is below FEW."""

LOST = (
    "lost: died, collapsed or functionally dead at the last reading (held-out accuracy at most 1.5 times chance, "
    "or 99 % of "
    "the units dead)"
)
Mask = Callable[[pd.DataFrame], "pd.Series[bool]"]


def where(results: Results, **fields: Any) -> pd.DataFrame:
    """The finished runs that have these values; `model__width=0.5` names the field model.width.

    Raises InputError if there is none.
    """
    runs = results.runs[results.runs["state"] == "finished"]
    for name, value in fields.items():
        runs = runs[runs[name.replace("__", ".")] == value]
    if runs.empty:
        raise InputError([f"{results.name}: no finished run with {_words(fields) or 'any values'}"])
    return runs


def _words(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('__', '.')} = {value}" for name, value in fields.items())


def pooled(*frames: pd.DataFrame) -> pd.DataFrame:
    """The runs of several sweeps in one frame, with the first one's columns."""
    filled = [frame.dropna(axis=1, how="all") for frame in frames]  # an empty column has a type of its own
    return pd.concat(filled, ignore_index=True).reindex(columns=frames[0].columns)


def died(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs had their net's event: all pre-pool units dead, or inert where dead ones are all but impossible."""
    return runs["outcome"].isin(EVENTS)


def collapsed(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs had all pre-pool units inert, dead or not: what nets with and without a last batch-norm share."""
    return died(runs) | runs["collapsed_step"].notna()


def lost(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs died, collapsed, or are functionally dead at their last reading: graded outcomes beside the event."""
    return collapsed(runs) | health.functionally_dead(runs).fillna(False).astype(bool)


def learned(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs are not lost and have a held-out accuracy of at least LEARNED at their last reading."""
    return ~lost(runs) & (runs[health.ACCURACY] >= LEARNED).fillna(False).astype(bool)


def graded(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, with those that are lost and did not die as dead at their last step: for times until nets are lost."""
    late = lost(runs) & ~died(runs)
    return runs.assign(
        outcome=runs["outcome"].where(~late, "died"), outcome_step=runs["outcome_step"].where(~late, runs["last_step"])
    )


def share(runs: pd.DataFrame, event: Mask = lost) -> Estimate:
    """The share of runs with the event, with the exact interval that `above` and `below` decide by."""
    return exact(int(event(runs).sum()), len(runs))


def at_least(runs: pd.DataFrame, event: Mask = died) -> float:
    """The one-sided 95 % lower bound of the share with the event."""
    return share_above(int(event(runs).sum()), len(runs)) if len(runs) else 0.0


def at_most(runs: pd.DataFrame, event: Mask = died) -> float:
    """The one-sided 95 % upper bound of the share with the event."""
    return share_below(int(event(runs).sum()), len(runs)) if len(runs) else 1.0


def above(runs: pd.DataFrame, event: Mask = lost, bound: float = MOST) -> float:
    """One-sided exact p-value of "at most this share has the event"; 1 without runs."""
    return _p(runs, event, bound, "greater")


def below(runs: pd.DataFrame, event: Mask = lost, bound: float = MOST) -> float:
    """One-sided exact p-value of "at least this share has the event"; 1 without runs."""
    return _p(runs, event, bound, "less")


def _p(runs: pd.DataFrame, event: Mask, bound: float, side: Literal["greater", "less"]) -> float:
    return float(stats.binomtest(int(event(runs).sum()), len(runs), bound, side).pvalue) if len(runs) else 1.0


def all_of(*p: float) -> float:
    """The p-value of a rule that asks for every one of several things: the largest."""
    return max(p)


def any_of(*p: float) -> float:
    """The p-value of a rule that asks for one of several things, by Bonferroni."""
    return min(1.0, len(p) * min(p))


def decide(holds: float, fails: float) -> tuple[Verdict, float]:
    """The verdict of the p-values of the two sides of a rule, and its own: the smaller where neither is below ALPHA."""
    if holds < ALPHA:
        return "holds", holds
    return ("does not hold", fails) if fails < ALPHA else ("undecided", min(holds, fails))


def cures(treated: pd.DataFrame, control: pd.DataFrame) -> float:
    """The p-value of a remedy that prevents: most nets are lost without it, and most learn with it."""
    return all_of(above(control), above(treated, learned))


def count(runs: pd.DataFrame, event: Mask = lost) -> str:
    """Such as `3 of 10`."""
    return f"{int(event(runs).sum())} of {len(runs)}"
