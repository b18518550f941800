"""Results of a sweep: from its output folder, or compact ones, which are committed: one row a run, and a few metrics.

A folder of compact results holds `sweep.yaml` as it was given, `index.parquet` (a frame of `load`), `rows.parquet` (a
frame of `load_rows` with the metrics that somebody needs) and `provenance.json`.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.frames.load import STEPS, load_rows, load_sweep, provenance
from harness import files, store
from harness.config import RunConfig
from harness.located import InputError, parse

INDEX, ROWS = "index.parquet", "rows.parquet"
PROVENANCE = "provenance.json"
ORIGIN = ("git_revision", "versions", "device")
"""What compact results say of where their runs came from, each combination once; no host, command or path."""
KEPT = ("train", "val", "prepool", "optim", "time")
"""First parts of the metrics whose last values a compact index keeps."""


class ForeignRuns(UserWarning):
    """Runs of another sweep were left out."""


@dataclass(frozen=True, eq=False)
class Results:
    """What came out of a sweep.

    name: the sweep's, or the folder's if that has none. folder: where it was read from. runs: one row a run, as `load`
    gives them. rows: one row a run and step, as `load_rows` does.
    """

    name: str
    folder: Path
    runs: pd.DataFrame
    rows: pd.DataFrame


def read(folder: str | os.PathLike[str], planned: Iterable[RunConfig] = ()) -> Results:
    """The results in a folder: the output of `harness sweep`, or compact ones.

    `planned` are the configurations of the folder's sweep; runs of another one are left out, with a warning. Raises
    InputError for a folder that is missing or holds no runs, and for compact results that cannot be read.
    """
    place = Path(folder)
    if not is_compact(place):
        runs, others = load_sweep(place, planned, pending=False)
        if len(others):
            warnings.warn(f"{place}: {len(others)} runs of another sweep left out", ForeignRuns, stacklevel=2)
        if runs.empty:
            raise InputError([f"{place}: holds no run of its own sweep"])
        return Results(name_of(place), place, runs, load_rows(place, runs))
    try:
        runs, rows = (pd.read_parquet(place / name) for name in (INDEX, ROWS))
    except (OSError, ValueError) as error:
        raise InputError([f"{place}: its compact results cannot be read: {error}"]) from None
    if missing := [name for name in ("run_id", "state", "outcome", *STEPS) if name not in runs]:
        raise InputError([f"{place / INDEX}: its columns are not those of an index; {', '.join(missing)} missing"])
    return Results(name_of(place), place, runs.astype(dict.fromkeys(STEPS, "Int64")), rows)


def is_compact(folder: Path) -> bool:
    """Whether a folder holds compact results."""
    return (folder / ROWS).is_file() and not (folder / "runs").is_dir()


def read_all(
    folders: Iterable[str | os.PathLike[str]], planned: Callable[[Path], Iterable[RunConfig]] = lambda _: ()
) -> dict[str, Results]:
    """The results of several sweeps by name. `planned` gives the configurations of a folder's sweep.

    Raises InputError as `read` does, all at once, and for a name twice.
    """
    found: dict[str, Results] = {}
    problems: list[str] = []
    for folder in folders:
        try:
            results = read(folder, () if is_compact(Path(folder)) else planned(Path(folder)))
        except InputError as error:
            problems += error.problems
            continue
        if results.name in found:
            first = found[results.name].folder
            problems.append(f"{folder}: results of the sweep {results.name!r}, as {first} holds; give one of them")
        found[results.name] = results
    if problems:
        raise InputError(problems)
    return found


def write_compact(results: Results, target: Path, metrics: Sequence[str], every: int = 1) -> None:
    """Write compact results, with these metrics of the rows, those apart that no run has.

    Rows are those until the step `every`, and then each `every`-th step's. Of the metrics' last values, in the index,
    those of KEPT remain.
    """
    runs = results.runs[[name for name in map(str, results.runs) if "/" not in name or name.split("/")[0] in KEPT]]
    there = [name for name in metrics if name in results.rows]
    rows = results.rows[["run_id", "step", *there]].dropna(how="all", subset=there) if there else results.rows[:0]
    small = {"step": "int32", "run_id": "category"} | dict.fromkeys(there, "float32")
    rows = rows[["run_id", "step", *there]].astype(small)
    text = store.sweep_text(results.folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, frame in ((INDEX, runs), (ROWS, rows[(rows["step"] <= every) | (rows["step"] % every == 0)])):
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        buffer = io.BytesIO()  # a hundred columns of a few runs: what describes a column would be most of the file
        pq.write_table(
            table, buffer, compression="zstd", write_statistics=False, store_schema=False, use_dictionary=["run_id"]
        )
        files.write_atomically(target / name, buffer.getvalue())
    if text is not None:
        store.write_sweep_text(target, text)
    found = provenance(results.folder, results.runs)
    told = {json.dumps({name: each.get(name) for name in ORIGIN}, sort_keys=True) for each in found}
    if told:
        lines = json.dumps([json.loads(line) for line in sorted(told)], indent=1) + "\n"
        files.write_atomically(target / PROVENANCE, lines.encode())


def name_of(folder: Path) -> str:
    """The sweep's own name; the folder's, if the sweep has none. Raises InputError for a sweep file that is damaged."""
    text = store.sweep_text(folder)
    name = None if text is None else parse(text, str(folder / "sweep.yaml")).data.get("name")
    return str(name or folder.resolve().name)
