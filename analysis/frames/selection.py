"""Which runs of a frame to show: all in the order of what varies, a few that stand for all, those of one place."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.frames import columns
from analysis.frames.columns import varying
from analysis.frames.events import EVENTS


def in_order(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs in the order of the factors that vary, then of the seed."""
    keys = _codes(runs).assign(seed=runs["seed"], run_id=runs["run_id"])
    return runs.loc[keys.sort_values(keys.columns.to_list()).index]


def representatives(runs: pd.DataFrame, most: int) -> pd.DataFrame:
    """Up to `most` runs that together show as many levels of the factors that vary, and outcomes, as they can.

    Of runs that add equally many levels one that died goes before one that did not, a lower seed before a higher one.
    Stops where every level is shown. In the order of the factors that vary.
    """
    codes = _codes(runs)
    order = codes.assign(alive=~runs["outcome"].isin(EVENTS), seed=runs["seed"], run_id=runs["run_id"])
    order = order.sort_values(["alive", "seed", *codes.columns, "run_id"])
    end = runs["outcome"].where(runs["state"] == "finished", runs["state"])
    levels = {run: {*codes.loc[run].items(), ("end", end[run])} for run in order.index}
    picked: list[Any] = []
    covered: set[Any] = set()
    while levels and len(picked) < most:
        best = max(levels, key=lambda run: len(levels[run] - covered))  # the first of equals
        if not levels[best] - covered:
            break
        picked.append(best)
        covered |= levels[best]
    return runs.loc[order.loc[picked].sort_values([*codes.columns, "alive", "seed"]).index]


def seeds_of(runs: pd.DataFrame, run_id: str) -> pd.DataFrame:
    """The run and those that differ from it in the seed only."""
    fields = runs[[column for column in varying(runs) if column != "seed"]].map(repr)
    [own] = fields[runs["run_id"] == run_id].to_numpy()
    return runs[(fields == own).all(axis=1)]


def _codes(runs: pd.DataFrame) -> pd.DataFrame:
    """The level of each run in each factor that varies."""
    levels = {column: columns.factor(runs, column).codes for column in columns.candidates(runs)}
    return pd.DataFrame(levels, index=runs.index)
