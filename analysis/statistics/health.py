"""Graded outcomes beside died: how much of a network is dead at its last reading, and what it can still do.

"Every unit dead" is at its floor or its ceiling in most cells of a study; these are not.
"""

from __future__ import annotations

import pandas as pd

from analysis.frames.columns import Factor, demand
from harness.config import CLASSES

ACCURACY, DEAD_SHARE = "val/accuracy", "prepool/dead_share_probe"
"""Held-out accuracy, and the share of pre-pool units that are dead on the probe set; in [0, 1]."""
TIMES_CHANCE = 1.5
"""A network whose held-out accuracy is at most so many times that of guessing has no function."""
MOST_DEAD = 0.99
"""Nor has one with at least this share of its pre-pool units dead."""


def functionally_dead(runs: pd.DataFrame) -> pd.Series[bool]:
    """Whether each run of a frame of `load` is functionally dead at its last reading; missing where it has none.

    That is: held-out accuracy at most 1.5 times chance, or at least 99 % of the pre-pool units dead on the probe set.
    Raises InputError for a frame without these readings.
    """
    demand(runs, ACCURACY, DEAD_SHARE)
    classes = runs["data.name"].map(dict(CLASSES))
    if "data.num_classes" in runs:
        classes = pd.to_numeric(runs["data.num_classes"]).fillna(classes)
    dead = (runs[ACCURACY] <= TIMES_CHANCE / classes) | (runs[DEAD_SHARE] >= MOST_DEAD)
    read = (runs["state"] == "finished") & runs[ACCURACY].notna() & runs[DEAD_SHARE].notna()
    return dead.astype("boolean").where(read)


def cells(runs: pd.DataFrame, across: Factor, up: Factor, column: str) -> pd.DataFrame:
    """The last reading of a column in finished runs, for every combination of levels of two factors.

    Index: the numbers of the levels, `y` of `up` and `x` of `across`. Columns: `median`, `low` and `high`, the least
    and the largest, missing where no run has a reading; `n` runs that have one.
    """
    values = runs.loc[runs["state"] == "finished", column].astype(float)
    levels = [up.codes.loc[values.index].rename("y"), across.codes.loc[values.index].rename("x")]
    every = pd.MultiIndex.from_product([range(len(up.levels)), range(len(across.levels))], names=["y", "x"])
    groups = values.groupby(levels)
    found = pd.DataFrame({"median": groups.median(), "low": groups.min(), "high": groups.max(), "n": groups.count()})
    found = found.reindex(every)
    return found.assign(n=found["n"].fillna(0).astype(int))
