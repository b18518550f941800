"""Where networks die: counts over two factors of the study, and the values at which half of the runs die.

Death is one of `analysis.frames.events.EVENTS`. Divergence competes with it: a run that diverged counts as not died.
Failed, running and pending runs count for nothing, and are numbered apart.
"""

from __future__ import annotations

import contextlib

import pandas as pd

from analysis.frames.columns import Factor
from analysis.frames.events import EVENTS, UNFINISHED
from analysis.statistics import dose, health
from analysis.statistics.dose import LethalDose
from analysis.statistics.estimates import wilson
from harness.located import InputError


def cells(runs: pd.DataFrame, across: Factor, up: Factor) -> pd.DataFrame:
    """Counts for every combination of a level of one factor with one of another, also those without runs.

    Index: the numbers of the levels, `y` of `up` and `x` of `across`. Columns: `finished` runs; those `died` (or
    collapsed) and `diverged` among them, and that survived with all pre-pool units `dead` when last seen; `share`, died
    / finished, missing where none finished; `low` and `high`, its 95 % Wilson interval; `failed`, `running` and
    `pending` runs. The factors may be those of a larger frame.
    """
    state, outcome = runs["state"], runs["outcome"]
    flags = {"finished": state == "finished", "died": outcome.isin(EVENTS), "diverged": outcome == "diverged"}
    flags["dead"] = (outcome == "survived") & (_last_share(runs) == 1)
    flags |= {unfinished: state == unfinished for unfinished in UNFINISHED}
    levels = [up.codes.loc[runs.index].rename("y"), across.codes.loc[runs.index].rename("x")]
    every = pd.MultiIndex.from_product([range(len(up.levels)), range(len(across.levels))], names=["y", "x"])
    counts = pd.DataFrame(flags).groupby(levels).sum().reindex(every, fill_value=0).astype(int)
    intervals = [wilson(died, n) for died, n in zip(counts["died"], counts["finished"], strict=True)]
    counts.insert(3, "share", counts["died"] / counts["finished"].where(counts["finished"] > 0))
    counts.insert(4, "low", [low for low, _ in intervals])
    counts.insert(5, "high", [high for _, high in intervals])
    return counts


def _last_share(runs: pd.DataFrame) -> pd.Series[float]:
    """The share of pre-pool units dead at the last reading: on the probe set, else on the last batch."""
    shares = pd.Series(float("nan"), runs.index)
    for column in ("prepool/dead_share_batch", health.DEAD_SHARE):
        if column in runs:
            shares = runs[column].astype(float).fillna(shares)
    return shares


def contour(runs: pd.DataFrame, across: Factor, column: str) -> dict[int, LethalDose]:
    """Where the share of runs that died crosses one half: the lethal value of a column at each level of a factor.

    By number of the level; levels at which fewer than two positive values have finished runs are left out.
    """
    found = {}
    for code, part in runs.groupby(across.codes.loc[runs.index]):
        with contextlib.suppress(InputError):  # fewer than two values
            found[int(str(code))] = dose.lethal_dose(part, column)
    return found
