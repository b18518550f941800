"""Frames of runs as `analysis.load` gives them, with known outcomes, made without a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.outcome import Outcome
from tests.analysis_folders import STEPS

_DEFAULTS = {
    "seed": 0,
    "model.name": "inception_resnet_v2",
    "model.width": 0.125,
    "model.repeats": "2/4/2",
    "model.residual_scale": 1.0,
    "optim.lr": 0.5,
    "train.steps": STEPS,
    "train.check_every": 10,
}


def frame(runs: Iterable[tuple[dict[str, Any], Outcome | str]]) -> pd.DataFrame:
    """One row a run from its fields and its outcome, or its state where it has none."""
    records = []
    for number, (fields, end) in enumerate(runs):
        record: dict[str, Any] = {"run_id": f"run{number:04d}", "state": "finished", "outcome": None}
        record |= dict.fromkeys(("outcome_step", "outcome_last_live_step", "last_step"))
        if isinstance(end, Outcome):
            record |= {"outcome": end.outcome, "outcome_step": end.step, "last_step": end.last_step}
            record |= {"outcome_last_live_step": end.last_live_step}
        else:
            record["state"] = end
        records.append(record | _DEFAULTS | fields)
    steps = ("outcome_step", "outcome_last_live_step", "last_step")
    return pd.DataFrame(records).astype(dict.fromkeys(steps, "Int64"))


def grid(fate: Callable[..., Outcome | str], seeds: int = 3, **fields: Sequence[float]) -> pd.DataFrame:
    """Runs over every combination of the fields (`width`, `residual_scale`, `lr`) and seeds; `fate` gives each its end."""
    names = {"width": "model.width", "residual_scale": "model.residual_scale", "lr": "optim.lr"}
    cells = np.stack(np.meshgrid(*fields.values(), range(seeds), indexing="ij"), axis=-1).reshape(-1, len(fields) + 1)
    return frame(
        (
            {names[name]: float(value) for name, value in zip(fields, cell, strict=False)} | {"seed": int(cell[-1])},
            fate(*map(float, cell[:-1]), int(cell[-1])),
        )
        for cell in cells
    )


def rows(runs: pd.DataFrame, readings: Callable[[pd.Series, int], dict[str, float]], every: int = 10) -> pd.DataFrame:
    """Rows of each run up to its last step, with the readings that a function of the run and the step gives."""
    records = [
        {"run_id": run["run_id"], "step": step, **readings(run, step)}
        for _, run in runs[runs["state"] == "finished"].iterrows()
        for step in range(0, int(run["last_step"]) + 1, every)
    ]
    return pd.DataFrame(records)
