"""What the rules of claims are made of: groups of finished runs, and the share of them that died."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from analysis.claims.claim import Verdict
from analysis.frames.events import EVENTS
from analysis.frames.results import Results
from analysis.statistics import health
from analysis.statistics.estimates import Estimate, share_above, share_below, wilson
from harness.located import InputError

FEW = 0.1
"""A share of runs below this is "about zero"."""
MOST = 0.5
"""A share of runs above this is "most"."""
ENOUGH = 29
"""Runs that a claim of "never" takes: with none among them the one-sided 95 % bound is just below FEW."""

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


def share(runs: pd.DataFrame, event: Mask = died) -> Estimate:
    """The share of runs with the event, with Wilson's interval."""
    events, n = int(event(runs).sum()), len(runs)
    low, high = wilson(events, n)
    return Estimate(events / n if n else float("nan"), low, high, n)


def at_least(runs: pd.DataFrame, event: Mask = died) -> float:
    """The one-sided 95 % lower bound of the share with the event."""
    return share_above(int(event(runs).sum()), len(runs)) if len(runs) else 0.0


def at_most(runs: pd.DataFrame, event: Mask = died) -> float:
    """The one-sided 95 % upper bound of the share with the event."""
    return share_below(int(event(runs).sum()), len(runs)) if len(runs) else 1.0


def count(runs: pd.DataFrame, event: Mask = died) -> str:
    """Such as `3 of 10`."""
    return f"{int(event(runs).sum())} of {len(runs)}"


def never(runs: pd.DataFrame, event: Mask) -> Verdict:
    """Whether the event is about absent: with ENOUGH runs and an upper bound below FEW; not with a lower one above."""
    if at_least(runs, event) > FEW:
        return "does not hold"
    return "holds" if len(runs) >= ENOUGH and at_most(runs, event) < FEW else "undecided"
