"""The output folder: its sweep, its runs, and their index."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from harness.config import RunConfig
from harness.files import TEMPORARY, explain_system, numbered, write_atomically, write_new
from harness.located import InputError
from harness.store.columns import columns
from harness.store.damage import Damaged
from harness.store.rows import Row, last_values, to_parquet
from harness.store.run_directory import RunDirectory

INDEX_VERSION = 1
"""To be raised when `index_row` makes another row of the same run."""
_NO_SEAL = b"sealed " + 64 * b"0"


def runs(out: Path) -> list[RunDirectory]:
    """Every run folder in an output folder, in order of name."""
    folder = out / "runs"
    if not folder.is_dir():
        return []
    return [RunDirectory(path) for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def folders(out: Path, configs: Iterable[RunConfig]) -> dict[str, RunDirectory]:
    """The folder of each run by its id: that of its name, else one whose configuration resolves to it today."""
    named = {config.run_id: RunDirectory(out / "runs" / config.run_id) for config in configs}
    missing = [run_id for run_id, run in named.items() if not run.path.exists()]
    older = by_identity(run for run in runs(out) if run.run_id not in named) if missing else {}
    return named | {run_id: older[run_id] for run_id in missing if run_id in older}


def by_identity(found: Iterable[RunDirectory]) -> dict[str, RunDirectory]:
    """Run folders by the id that their configuration has today: how runs of an older version are recognised."""
    known: dict[str, RunDirectory] = {}
    for run in found:
        with contextlib.suppress(Damaged):
            known.setdefault(run.config().run_id, run)
    return known


def adopt(run: RunDirectory, source: RunDirectory) -> None:
    """Take over a finished run of another output folder, whole or not at all."""
    run.path.parent.mkdir(parents=True, exist_ok=True)
    temporary = run.path.with_name(f".{run.run_id}.{uuid.uuid4().hex[:12]}.tmp")
    shutil.copytree(source.path, temporary, ignore=shutil.ignore_patterns("lease-*", "*.lock", "damaged-*", TEMPORARY))
    RunDirectory(temporary).rename_to(run.run_id)
    try:
        temporary.rename(run.path)
    except OSError:  # somebody made it meanwhile
        shutil.rmtree(temporary)


# -- the index -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Index:
    """The runs of an output folder.

    rows: one for each run that has a folder, in order of name. pending: one for each planned run that has none.
    foreign: names of the runs that are not among the planned ones; none where nothing is planned. damaged: the runs
    that are left out. unchanged: whether all runs are finished and their files, by size and time of change, those of
    which OUT/index.parquet was made.
    """

    rows: list[Row]
    pending: list[Row]
    foreign: frozenset[str]
    damaged: list[Damaged]
    unchanged: bool = field(compare=False)


def index(out: Path, configs: Iterable[RunConfig] = ()) -> Index:
    """The runs of a folder, and those of `configs`, the runs of its sweep, that have no folder yet.

    The rows are those of OUT/index.parquet where that is up to date, else made from the runs, each configuration being
    read once. A run of an older version is known by the identity that its configuration has today.
    """
    planned = {config.run_id: config for config in configs}
    damaged: list[Damaged] = []
    rows = _stored_rows(out)
    unchanged = rows is not None
    if rows is None:
        rows, seen = _read_rows(out, planned, damaged)
    else:
        seen = dict.fromkeys(row["run_id"] for row in rows)

    def identity(name: str, config: RunConfig | None) -> str:
        """The id that a folder's run has today."""
        if not planned or name in planned:
            return name
        return (config or RunDirectory(out / "runs" / name).config()).run_id

    ids = {name: identity(name, config) for name, config in seen.items()}
    there = set(ids.values())
    missing = [config for run_id, config in planned.items() if run_id not in there]
    return Index(
        rows,
        unchanged=unchanged,
        pending=[index_row(RunDirectory(out / "runs" / config.run_id), config) for config in missing],
        foreign=frozenset(name for name, run_id in ids.items() if planned and run_id not in planned),
        damaged=damaged,
    )


def _read_rows(
    out: Path, planned: Mapping[str, RunConfig], damaged: list[Damaged]
) -> tuple[list[Row], dict[str, RunConfig | None]]:
    """A row for every sound run folder; and the configurations that were read, None for a damaged or planned one."""
    rows: list[Row] = []
    seen: dict[str, RunConfig | None] = {}
    for run in runs(out):
        config = planned.get(run.run_id)
        started = run.file("config.json").exists()
        if not started and config is None and run.state() == "pending":
            continue  # an empty folder of no sweep
        try:
            if config is not None:
                seen[run.run_id] = None
            if started or config is None:
                config = seen[run.run_id] = run.config()
            rows.append(index_row(run, config))
        except Damaged as error:
            damaged.append(error)
    return rows, seen


def index_row(run: RunDirectory, config: RunConfig) -> Row:
    """One row of the index: run_id, state, outcome, every configuration field by dotted name, last metrics.

    Raises Damaged.
    """
    state = run.state()
    row: Row = {"run_id": run.run_id, "state": state, "outcome": None, "outcome_step": None}
    row["outcome_last_live_step"] = row["collapsed_step"] = row["revival_step"] = row["last_step"] = None
    row["failure"] = run.failure() if state == "failed" else None
    metrics: Row = {}
    if state == "finished":
        outcome, metrics = run.outcome()
        row["outcome"], row["outcome_step"] = outcome.outcome, outcome.step
        row["outcome_last_live_step"] = outcome.last_live_step
        row["collapsed_step"], row["revival_step"] = outcome.collapsed_step, outcome.revival_step
        row["last_step"] = outcome.last_step
    elif run.file("metrics.jsonl").exists():
        metrics = last_values(run.rows())
        row["last_step"] = metrics["step"]
    return row | columns(config) | {name: value for name, value in metrics.items() if name != "step"}


def write_index(out: Path, configs: Iterable[RunConfig] = ()) -> None:
    """Write OUT/index.parquet, unless it holds just that: then its time still says when a run last changed.

    A column in which texts and numbers meet (scales per stage) becomes text. Nothing is written where there are no
    runs. `index` takes it for the runs if every one of them is finished and sound, and all values are in it as they are
    in the rows. Whether a run whose weights came from a file is sound depends on that file too.
    """
    sources = _sources(out)  # before the runs are read: what changes meanwhile makes the index out of date
    found = index(out, configs)
    rows = [dict(row) for row in (*found.rows, *found.pending)]
    if not rows:
        return
    whole = not found.pending and not found.damaged and all(row["model.weights"] is None for row in rows)
    for name in {name for row in rows for name in row}:
        kinds = {type(row.get(name)) for row in rows} - {type(None)}
        if str in kinds and len(kinds) > 1:
            whole = False
            for row in rows:
                value = row.get(name)
                row[name] = value if value is None or isinstance(value, str) else f"{value:g}"
    path, content = out / "index.parquet", to_parquet(rows, {"harness": _NO_SEAL.decode()})
    if whole and sources is not None:
        content = content.replace(_NO_SEAL, _seal(content, sources))
    if path.is_dir():
        path.rename(numbered(out / ".index.parquet.damaged"))
    if not (path.is_file() and path.read_bytes() == content):
        write_atomically(path, content)


def _stored_rows(out: Path) -> list[Row] | None:
    """The rows of OUT/index.parquet, None unless they are what would be made of the runs as they are now."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = (out / "index.parquet").read_bytes()
    except OSError:
        return None
    seal = re.search(b"sealed [0-9a-f]{64}", content)
    if seal is None or seal[0] == _NO_SEAL or (sources := _sources(out)) is None:
        return None
    if _seal(content.replace(seal[0], _NO_SEAL), sources) != seal[0]:
        return None
    # One thread: a process that ends while the pool of Arrow starts its threads is aborted.
    rows = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False).to_pylist()
    return [{name: value for name, value in row.items() if value is not None or "/" not in name} for row in rows]


def _seal(content: bytes, sources: bytes) -> bytes:
    """What an index says of itself: a hash of what it was made from, and of its content without this hash."""
    return b"sealed " + hashlib.sha256(sources + content).hexdigest().encode()


def _sources(out: Path) -> bytes | None:
    """A hash of the sizes and times of all that finished runs consist of; None where some run is not finished."""
    digest = hashlib.sha256(_version())
    for run in runs(out):
        digest.update(f"{run.run_id}\n".encode())
        for name in ("config.json", "outcome.json", "metrics.parquet"):
            try:
                found = os.stat(run.file(name))  # noqa: PTH116  thousands of them
            except OSError:
                return None
            digest.update(b"%d %d %d\n" % (found.st_size, found.st_mtime_ns, found.st_ctime_ns))  # nobody sets ctime
    return digest.digest()


@cache
def _version() -> bytes:
    """How this version of the code makes a row of a run."""
    return json.dumps([INDEX_VERSION, columns(RunConfig())]).encode()


# -- the sweep -----------------------------------------------------------------------------------------------------


def sweep_text(out: Path) -> str | None:
    """The sweep file that the folder belongs to, or None. Raises InputError for one that cannot be read."""
    path = out / "sweep.yaml"
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        raise InputError([f"{path}: damaged: not text; put the sweep file that the runs are of in its place"]) from None
    except OSError as error:
        raise InputError([f"{explain_system(error)}; the sweep file that the runs are of belongs there"]) from None


def write_sweep_text(out: Path, text: str) -> None:
    """Write the sweep file of a folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "sweep.yaml", text.encode())


def take_for(out: Path, text: str) -> str:
    """Make a folder that of a sweep, unless it is one's already; gives the text of the sweep whose folder it is.

    Of several sweeps that begin at once in one folder one gets it.
    """
    (out / "runs").mkdir(parents=True, exist_ok=True)
    held = sweep_text(out)
    if held is None and write_new(out / "sweep.yaml", text.encode()):
        return text
    return sweep_text(out) or text if held is None else held
