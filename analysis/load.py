"""Run folders as tidy frames."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from harness import store
from harness.config import RunConfig
from harness.located import InputError
from harness.outcome import Event

EVENTS: tuple[str, ...] = get_args(Event)
"""Outcomes that are the death of a network: died, or collapsed where exact zeros are all but impossible."""

_STEPS = ("outcome_step", "outcome_last_live_step", "collapsed_step", "revival_step", "last_step")


class DamagedRuns(UserWarning):
    """Run folders that cannot be read were left out; the message names each and says why."""


def load(out: str | os.PathLike[str], planned: Iterable[RunConfig] = ()) -> pd.DataFrame:
    """One row a run of an output folder, in order of run_id.

    Columns: `run_id`; `state` (pending, running, finished, failed); `outcome` (missing unless finished), `outcome_step`
    and `outcome_last_live_step`, which enclose the event, `collapsed_step`, `revival_step` and `last_step`, all in
    updates of the weights; `failure`, the reason of a failed run; every configuration field by its dotted name
    (`model.width`, `optim.lr`, `seed`, ...); the last value of every metric by its slash name (`val/accuracy`, ...).

    `planned` are configurations that count as pending where they have no folder yet, such as those of the sweep.
    Damaged run folders are left out, named in a DamagedRuns warning and listed in `frame.attrs["damaged"]`.
    Raises InputError for a folder that is missing or holds no readable run.
    """
    folder = Path(out)
    if not folder.is_dir():
        raise InputError([f"{folder}: no such folder; expected one that `harness sweep` or `harness run` wrote"])
    records, unreadable = store.index(folder, planned)
    damaged = [str(error) for error in unreadable]
    sound: list[store.Row] = []
    for record in records:
        try:
            store.RunDirectory(folder / "runs" / record["run_id"]).verify()
            sound.append(record)
        except store.Damaged as error:
            damaged.append(str(error))
    if not sound:
        raise InputError([_no_runs(folder), *damaged])
    runs = pd.DataFrame(sound).astype(dict.fromkeys(_STEPS, "Int64"))
    _report_damage(runs, damaged)
    return runs


def load_rows(out: str | os.PathLike[str], runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row a run and step of an output folder, in order of run and step.

    Columns: `run_id`; `step`, the updates done; every metric by its slash name, missing at the steps that lack it; the
    configuration columns that vary between the runs. `runs`, a frame from `load` or part of one, selects the runs and
    spares reading the folder again. Damaged runs are left out as in `load`. Raises InputError as `load` does.
    """
    if runs is None:
        runs = load(out)
    damaged: list[str] = []
    records: list[store.Row] = []
    for run_id in runs["run_id"]:
        try:
            read = store.RunDirectory(Path(out) / "runs" / run_id).rows()
        except store.Damaged as error:
            damaged.append(str(error))
            continue
        records += [{"run_id": run_id, **row} for row in read]
    rows = pd.DataFrame(records) if records else pd.DataFrame({"run_id": [], "step": []})
    axes = runs.set_index("run_id")[varying(runs)]
    rows = rows.join(axes, on="run_id") if records else rows.reindex(columns=[*rows, *axes])
    _report_damage(rows, damaged)
    return rows


def provenance(out: str | os.PathLike[str], runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Where each run of the frame came from, as its config.json tells; runs without one are left out."""
    found: list[dict[str, Any]] = []
    for run_id in runs["run_id"]:
        try:
            found.append(store.RunDirectory(Path(out) / "runs" / run_id).provenance())
        except store.Damaged:  # not started yet
            continue
    return found


def config_columns(runs: pd.DataFrame) -> list[str]:
    """The columns of a frame that are configuration fields, in the configuration's order."""
    return [name for name in map(str, runs.columns) if name.split(".")[0] in RunConfig.model_fields]


def varying(runs: pd.DataFrame) -> list[str]:
    """The configuration columns in which the runs differ; a missing value is a value."""
    return [name for name in config_columns(runs) if runs[name].nunique(dropna=False) > 1]


def _report_damage(frame: pd.DataFrame, damaged: list[str]) -> None:
    frame.attrs["damaged"] = damaged
    if damaged:
        lines = "\n".join(damaged)
        warnings.warn(f"{len(damaged)} damaged run(s) left out:\n{lines}", DamagedRuns, stacklevel=3)


def _no_runs(folder: Path) -> str:
    if (folder / "config.json").exists():
        hint = f"it is one run; its output folder is {folder.parent.parent}"
    elif folder.name == "runs":
        hint = f"did you mean {folder.parent}?"
    else:
        hint = "expected the folder given to `harness sweep` or `harness run` as --out"
    return f"{folder}: holds no readable run; {hint}"
