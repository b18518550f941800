"""Learning-rate sensitivity: how much is lost, on average, by not knowing the best learning rate.

The mean over learning rates of min(loss, loss at initialisation) - best loss (Wortsman et al. 2309.14322, section 3).
All rates of the sweep weigh the same: spread them evenly in their logarithm, as the paper does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.frames import columns
from analysis.frames.columns import demand
from analysis.statistics import estimates
from analysis.statistics.estimates import Estimate
from harness.located import InputError


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Learning-rate sensitivity, in units of the loss.

    estimate: mean over the seeds with Student's interval. by_seed: the seeds' own, by seed. losses: min(last loss, loss
        at initialisation), one row a learning rate in order, one column a seed. initial: the loss at initialisation.
        left_out: seeds without a finished run at some learning rate.
    """

    estimate: Estimate
    by_seed: pd.Series[float]
    losses: pd.DataFrame
    initial: float
    left_out: tuple[int, ...]

    def __str__(self) -> str:
        left_out = f"; seeds without a run at every rate left out: {list(self.left_out)}" if self.left_out else ""
        return f"{self.estimate}, over {len(self.losses)} learning rates{left_out}"


def to_rate(runs: pd.DataFrame, rows: pd.DataFrame, metric: str = "val/loss") -> Sensitivity:
    """The sensitivity of runs that differ in `optim.lr` and the seed only, from frames of `load` and `load_rows`.

    The loss at initialisation is the mean over the runs of their first `train/loss`; a loss that is missing or not
    finite, because the run diverged, counts as that. The best loss is that of the seed's best rate. Raises InputError
    for a metric that is not there, for runs that differ in more, and where no seed has a finished run at each of at
    least two learning rates.
    """
    demand(runs, metric)
    demand(rows, "train/loss")
    if more := [column for column in columns.candidates(runs) if column != "optim.lr"]:
        raise InputError([f"runs of one cell are needed; these differ in {', '.join(more)} too: choose one of each"])
    first = rows.loc[rows["train/loss"].notna() & rows["run_id"].isin(runs["run_id"])].groupby("run_id")["train/loss"]
    initial = float(first.first().mean())
    finished = runs[runs["state"] == "finished"]
    table = finished.pivot(index="optim.lr", columns="seed", values=metric).astype(float)
    there = finished.assign(there=True).pivot(index="optim.lr", columns="seed", values="there").eq(True).all()
    losses = table.where(np.isfinite(table), initial).clip(upper=initial)[list(there.index[there])]
    if len(losses) < 2 or losses.empty:
        raise InputError(["no seed has a finished run at each of at least two learning rates"])
    by_seed = (losses - losses.min()).mean()
    left_out = tuple(int(seed) for seed in there.index[~there])
    return Sensitivity(estimates.mean(by_seed.to_numpy()), by_seed, losses, initial, left_out)
