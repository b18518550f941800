"""How the stream's variance grows at initialisation, over the blocks of a stage and with the residual scale alpha.

A branch that is normalised adds a constant times alpha^2 at every block, so that what the branches have added until a
block is proportional to L * alpha^2 (F2, QUESTION.md; Brock et al. 2101.08692). The variance less that at the stage's
start is something else: it also has what the ReLU after every sum takes away. A line through the origin says how much
of either that explains; a power of L times a power of alpha^2 tells the two apart, both exponents being 1 where the
statement holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import numpy as np
import pandas as pd

from analysis.frames.columns import demand
from analysis.statistics import estimates
from analysis.statistics.estimates import Estimate
from harness import store

Quantity = Literal["growth", "added_until"]
_SUM = re.compile(r"block/b(\d+)/sum/channel_variance")


@dataclass(frozen=True, eq=False)
class Growth:
    """How the variance, or what branches added to it, grows in one stage; means over seeds with Student's interval.

    stage: from 1. slope: of the growth against L * alpha^2, a line through the origin, in units of the variance.
        explained: R², the share of the growth's own variance that this line explains, negative where a constant does
        better. blocks, scale: exponents of L and of alpha^2, fitted to the logarithms where the variance grew at all;
        no value where the runs have one L or one alpha only.
    points: blocks of runs. shrunk: those whose quantity was not above 0, without a logarithm.
    """

    stage: int
    slope: Estimate
    explained: Estimate
    blocks: Estimate
    scale: Estimate
    points: int
    shrunk: int


def variances(runs: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The stream's variance after every block at the first row of every run, as the instruments `blocks` read it.

    One row a run and block. Columns: `run_id`, `seed`, `stage` from 1, `block` from 1 in its stage (L), `alpha`,
    `variance` (per channel, mean over channels, of the residual sum before its ReLU), `growth`, what it has above the
    skip connection at the stage's first block, `added`, above that at this block, and `added_until`, the sum of `added`
    over the stage's blocks until this one. Runs whose residual scale is not
    one number are left out. Raises InputError where the rows lack these readings.
    """
    demand(rows, "block/b01/sum/channel_variance", "block/b01/skip/channel_variance")
    found = {int(match[1]): name for name in map(str, rows.columns) if (match := _SUM.fullmatch(name))}
    sums = [found[number] for number in sorted(found)]
    first = rows[rows[sums[0]].notna()].drop_duplicates("run_id").set_index("run_id")
    scales = pd.to_numeric(runs["model.residual_scale"], errors="coerce")
    table: list[dict[str, float | str]] = []
    start = math.nan
    for run_id, seed, repeats, alpha in zip(runs["run_id"], runs["seed"], runs["model.repeats"], scales, strict=True):
        if run_id not in first.index or math.isnan(alpha):
            continue
        readings = first.loc[run_id]
        own = [name for name in sums if not pd.isna(readings[name])]
        for stage, block, name in _stages(own, repeats):
            variance, skip = float(readings[name]), float(readings[name.replace("/sum/", "/skip/")])
            start = skip if block == 1 else start
            place = {"run_id": run_id, "seed": seed, "stage": stage, "block": block, "alpha": alpha}
            table.append(place | {"variance": variance, "growth": variance - start, "added": variance - skip})
    points = pd.DataFrame(table)
    if not points.empty:
        points["added_until"] = points.groupby(["run_id", "stage"], sort=False)["added"].cumsum()
    return points


def by_stage(table: pd.DataFrame, quantity: Quantity = "growth") -> list[Growth]:
    """How a column of the table of `variances` grows in every stage: the variance, or what branches added to it."""
    of_quantity = table.assign(grown=table[quantity])
    grouped = of_quantity[of_quantity["alpha"] > 0].groupby("stage")
    return [_of_stage(stage, part) for stage, (_, part) in enumerate(grouped, 1)]


def _of_stage(stage: int, table: pd.DataFrame) -> Growth:
    lines = np.array([_line(part) for _, part in table.groupby("seed")])
    grown = table[table["grown"] > 0]
    powers = np.array([_powers(part) for _, part in grown.groupby("seed")]).reshape(-1, 2)
    slope, explained = (estimates.mean(values) for values in lines.T)
    explained = replace(explained, high=min(1.0, explained.high))
    blocks, scale = (estimates.mean(values[~np.isnan(values)]) for values in powers.T)
    return Growth(stage, slope, explained, blocks, scale, len(table), len(table) - len(grown))


def _line(points: pd.DataFrame) -> tuple[float, float]:
    """Slope through the origin of one seed's growth against L * alpha^2, and R²."""
    x = (points["block"] * points["alpha"] ** 2).to_numpy(dtype=np.float64)
    y = points["grown"].to_numpy(dtype=np.float64)
    slope = float(x @ y / (x @ x))
    spread = float(((y - y.mean()) ** 2).sum())
    return slope, 1 - float(((y - slope * x) ** 2).sum()) / spread if spread else math.nan


def _powers(points: pd.DataFrame) -> tuple[float, float]:
    """Exponents of L and of alpha^2 in one seed's growth, from its logarithms; NaN for one that does not vary."""
    length, scale, grown = np.log(np.stack([points["block"], points["alpha"] ** 2, points["grown"]]).astype(float))
    varies = [values.min() < values.max() for values in (length, scale)]
    columns = [np.ones_like(grown), *(values for values, vary in zip((length, scale), varies, strict=True) if vary)]
    found = iter(np.linalg.lstsq(np.stack(columns, axis=1), grown, rcond=None)[0][1:].tolist())
    blocks, alpha = (next(found) if vary else math.nan for vary in varies)
    return blocks, alpha


def _stages(sums: list[str], repeats: str) -> Iterator[tuple[int, int, str]]:
    """Stage, number in it and name of every block; blocks beyond the repeats are the last stage's."""
    ends = list(accumulate(int(count) for count in store.numbers_of(repeats)))
    for number, name in enumerate(sums):
        stage = min(sum(number >= end for end in ends), len(ends) - 1)
        yield stage + 1, number + 1 - (ends[stage - 1] if stage else 0), name
