"""Run folders as tidy frames."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from analysis.frames.columns import demand, varying
from harness import store
from harness.config import RunConfig
from harness.located import InputError

STEPS = ("outcome_step", "outcome_last_live_step", "collapsed_step", "revival_step", "last_step")
"""Columns of a frame of runs that are steps, or missing."""


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
    tables, broken = _tables(folder, [record["run_id"] for record in records], ())
    damaged = [str(error) for error in unreadable] + broken
    sound = [record for record in records if record["run_id"] in tables]
    if not sound:
        raise InputError([_no_runs(folder), *damaged])
    runs = pd.DataFrame(sound).astype(dict.fromkeys(STEPS, "Int64"))
    _report_damage(runs, damaged)
    return runs


def load_rows(
    out: str | os.PathLike[str], runs: pd.DataFrame | None = None, metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """One row a run and step of an output folder, in order of run and step.

    Columns: `run_id`; `step`, the updates done; every metric by its slash name, missing at the steps that lack it; the
    configuration columns that vary between the runs. `runs`, a frame from `load` or part of one, selects the runs and
    spares reading the folder again; `metrics` selects the metrics, which spares time and memory. Damaged runs are left
    out as in `load`. Raises InputError as `load` does, and for a metric that no run has, naming those there are.
    """
    if runs is None:
        runs = load(out)
    wanted = None if metrics is None else ["step", *metrics]
    tables, damaged = _tables(Path(out), runs["run_id"], wanted)
    tables = {run_id: table for run_id, table in tables.items() if len(table)}
    lengths = [len(table) for table in tables.values()]
    own = runs.set_index("run_id", drop=False).loc[list(tables), ["run_id", *varying(runs)]]
    repeated = pd.DataFrame({name: own[name].array.repeat(lengths) for name in own}, copy=False)
    rows = pd.concat([repeated[["run_id"]], _joined(tables), repeated.drop(columns="run_id")], axis=1)
    if missing := [name for name in metrics or () if len(rows) and name not in rows]:
        demand(runs.drop(columns=missing, errors="ignore"), *missing)
    _report_damage(rows, damaged)
    return rows


def of_other_sweeps(out: str | os.PathLike[str], runs: pd.DataFrame, planned: Iterable[RunConfig]) -> pd.Series[bool]:
    """Which runs of a folder are not among the `planned` ones, those of its sweep; none where nothing is planned.

    A run of an older version is known by the identity that its configuration has today.
    """
    ids = {config.run_id for config in planned}

    def strange(run_id: str) -> bool:
        return run_id not in ids and store.RunDirectory(Path(out) / "runs" / run_id).config().run_id not in ids

    return pd.Series([bool(ids) and strange(run_id) for run_id in runs["run_id"]], index=runs.index, dtype=bool)


def _tables(
    folder: Path, run_ids: Iterable[str], columns: Sequence[str] | None
) -> tuple[dict[str, pa.Table], list[str]]:
    """The rows of each sound run, and what is wrong with the others. Reading is done on every core."""

    def read(run_id: str) -> pa.Table | str:
        try:
            return store.RunDirectory(folder / "runs" / run_id).table(columns)
        except store.Damaged as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(run_ids, pool.map(read, run_ids), strict=True))
    tables = {run_id: table for run_id, table in found.items() if not isinstance(table, str)}
    return tables, [error for error in found.values() if isinstance(error, str)]


def _joined(tables: dict[str, pa.Table]) -> pd.DataFrame:
    """The rows of several runs, one below the other. Empties `tables`, so that the rows are not held twice."""
    table = pa.concat_tables(tables.values(), promote_options="permissive") if tables else pa.table({"step": []})
    tables.clear()
    rows: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
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
