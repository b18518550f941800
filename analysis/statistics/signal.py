"""How the signal passes the blocks of a network: profiles over depth and courses over steps, from rows of its runs.

Metrics are named as the instruments name them: `block/b03/skip/rms`, `update/b03/up_projection.weight/ratio`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd


def blocks(rows: pd.DataFrame, metric: str) -> list[str]:
    """Names of the blocks that have a reading, such as `rms_ratio`, in forward order."""
    matches = (re.fullmatch(rf"block/(b\d+)/{metric}", name) for name in map(str, rows.columns))
    return sorted((match[1] for match in matches if match), key=lambda block: int(block[1:]))


def updated(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Names of the parameters whose update ratio was read, by kind: weight and bias, in forward order.

    They are those of the up-projections, in a network without any all that were read.
    """
    matches = (re.fullmatch(r"update/(.+)/ratio", name) for name in map(str, rows.columns))
    names = [match[1] for match in matches if match]
    up = [name for name in names if "up_projection." in name] or names
    return {kind: [name for name in up if name.endswith(f".{kind}")] for kind in ("weight", "bias")}


def steps_read(rows: pd.DataFrame, metrics: Iterable[str]) -> list[int]:
    """Steps at which every run of the rows that goes so far has some of the blocks' readings."""
    names = [f"block/{block}/{metric}" for metric in metrics for block in blocks(rows, metric)]
    read = rows[rows[names].notna().any(axis=1)]
    counts = read.groupby("step")["run_id"].nunique()
    reach = read.groupby("run_id")["step"].max()
    return [int(step) for step in counts.index if counts[step] == (reach >= step).sum()]


def spread(runs: Iterable[Iterable[int]], most: int = 5) -> list[int]:
    """Up to `most` steps to draw: the first, the last, and between them such as all runs read, equal in ratio.

    `runs` has the steps read of each; `most` is at least 3.
    """
    read = [set(steps) for steps in runs]
    every = sorted(set().union(*read))
    if not every:
        return []
    common = np.array(sorted(set.intersection(*read) - {every[0], every[-1]}) or every)
    low, high = max(1, common[0]), max(1, common[-1])
    if 2 * high > every[-1]:  # the last is near: stop a good way before it
        targets = np.geomspace(low, max(low, every[-1]), most - 1)[:-1]
    else:
        targets = np.geomspace(low, high, most - 2)
    between = {int(common[np.abs(np.log(np.maximum(common, 1) / target)).argmin()]) for target in targets}
    return sorted({every[0], every[-1]} | between)


def profile(rows: pd.DataFrame, metric: str, steps: Sequence[int]) -> pd.DataFrame:
    """A reading at every block over the runs of the rows, at such of the steps as have it.

    One row a step and block. Columns: `step`; `block`, from 1 in forward order; `low`, `middle`, `high`, the least,
    the median and the greatest, missing where no run has the reading.
    """
    names = {f"block/{block}/{metric}": depth for depth, block in enumerate(blocks(rows, metric), 1)}
    read = rows.loc[rows["step"].isin(steps), ["step", *names]].rename(columns=names)
    found = _range(read.melt("step", var_name="block").astype({"block": int}), ["step", "block"])
    return found[found.groupby("step")["middle"].transform("count") > 0]


def course(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric over the runs of the rows, a row for each step that has it: `step`, and the rest as in `profile`."""
    return _range(rows[["step", metric]].dropna().rename(columns={metric: "value"}), ["step"])


def _range(values: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    grouped = values.astype({"value": np.float64}).groupby(by)["value"]
    return pd.DataFrame({"low": grouped.min(), "middle": grouped.median(), "high": grouped.max()}).reset_index()
