"""Run folders as tidy frames."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa

from analysis.frames.columns import demand, varying
from harness import store
from harness.config import RunConfig
from harness.located import InputError

Found = TypeVar("Found")
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
    found = _index(Path(out), planned)
    runs = _frame(Path(out), found, [*found.rows, *found.pending])
    _report_damage(runs)
    return runs


def load_sweep(
    out: str | os.PathLike[str], planned: Iterable[RunConfig], pending: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of a folder's sweep, those `planned`, and the runs of another one that the folder holds too.

    Each as `load` gives them; `pending`: with the planned runs that have no folder yet. Where nothing is planned, no
    run is another sweep's. Warns and raises as `load` does.
    """
    found = _index(Path(out), planned)
    runs = _frame(Path(out), found, [*found.rows, *(found.pending if pending else ())])
    _report_damage(runs)
    foreign = runs["run_id"].isin(found.foreign)
    return runs[~foreign].reset_index(drop=True), runs[foreign].reset_index(drop=True)


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
    tables, damaged = _read(Path(out), runs["run_id"], lambda run: run.table(wanted))
    tables = {run_id: table for run_id, table in tables.items() if len(table)}
    lengths = [len(table) for table in tables.values()]
    own = runs.set_index("run_id", drop=False).loc[list(tables), ["run_id", *varying(runs)]]
    repeated = pd.DataFrame({name: own[name].array.repeat(lengths) for name in own}, copy=False)
    rows = pd.concat([repeated[["run_id"]], _joined(tables), repeated.drop(columns="run_id")], axis=1)
    if missing := [name for name in metrics or () if len(rows) and name not in rows]:
        demand(runs.drop(columns=missing, errors="ignore"), *missing)
    rows.attrs["damaged"] = damaged
    _report_damage(rows)
    return rows


def _index(folder: Path, planned: Iterable[RunConfig]) -> store.Index:
    if not folder.is_dir():
        raise InputError([f"{folder}: no such folder; expected one that `harness sweep` or `harness run` wrote"])
    return store.index(folder, planned)


def _frame(folder: Path, found: store.Index, rows: Sequence[store.Row]) -> pd.DataFrame:
    """Rows of an index, those of finished runs apart whose metrics are not what was sealed; `damaged` in its attrs.

    Where no file has changed since the sweep wrote its index, they are not read again for that.
    """
    finished = [] if found.unchanged else [row["run_id"] for row in rows if row["state"] == "finished"]
    whole, broken = _read(folder, finished, lambda run: len(run.sealed_rows()))
    sound = [row for row in rows if found.unchanged or row["state"] != "finished" or row["run_id"] in whole]
    damaged = [*map(str, found.damaged), *broken]
    if not sound:
        raise InputError([_no_runs(folder), *damaged])
    runs = pd.DataFrame(sound).astype(dict.fromkeys(STEPS, "Int64"))
    runs.attrs["damaged"] = damaged
    return runs


def _read(
    folder: Path, run_ids: Iterable[str], what: Callable[[store.RunDirectory], Found]
) -> tuple[dict[str, Found], list[str]]:
    """What is asked of each run, of the sound ones; and what is wrong with the others. Reads on every core."""

    def read(run_id: str) -> Found | store.Damaged:
        try:
            return what(store.RunDirectory(folder / "runs" / run_id))
        except store.Damaged as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(run_ids, pool.map(read, run_ids), strict=True))
    sound = {run_id: each for run_id, each in found.items() if not isinstance(each, store.Damaged)}
    return sound, [str(each) for each in found.values() if isinstance(each, store.Damaged)]


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


def _report_damage(frame: pd.DataFrame) -> None:
    if damaged := frame.attrs["damaged"]:
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
