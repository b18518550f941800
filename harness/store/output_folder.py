"""The output folder: its sweep, its runs, and their index."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import RunConfig
from harness.files import TEMPORARY, write_atomically
from harness.store.damage import Damaged
from harness.store.rows import Row, last_values, to_parquet
from harness.store.run_directory import RunDirectory

if TYPE_CHECKING:
    pass


def runs(out: Path) -> list[RunDirectory]:
    """Every run folder in an output folder, in order of name."""
    folder = out / "runs"
    if not folder.is_dir():
        return []
    return [RunDirectory(path) for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def folder_of(out: Path, config: RunConfig, known: Mapping[str, RunDirectory] | None = None) -> RunDirectory:
    """The folder of a run: that of its name, or the one (`known`, from `by_identity`) whose config resolves to it."""
    named = RunDirectory(out / "runs" / config.run_id)
    if named.path.exists() or known is None:
        return named
    return known.get(config.run_id, named)


def by_identity(out: Path) -> dict[str, RunDirectory]:
    """Run folders by the id that their configuration has today: how runs of an older version are recognised."""
    found: dict[str, RunDirectory] = {}
    for run in runs(out):
        with contextlib.suppress(Damaged):
            found.setdefault(run.config().run_id, run)
    return found


def adopt(run: RunDirectory, source: RunDirectory) -> None:
    """Take over a finished run of another output folder, whole or not at all."""
    run.path.parent.mkdir(parents=True, exist_ok=True)
    temporary = run.path.with_name(f".{run.run_id}.{uuid.uuid4().hex[:12]}.tmp")
    shutil.copytree(source.path, temporary, ignore=shutil.ignore_patterns("*.lock", "damaged-*", TEMPORARY))
    RunDirectory(temporary).rename_to(run.run_id)
    try:
        temporary.rename(run.path)
    except OSError:  # somebody made it meanwhile
        shutil.rmtree(temporary)


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name, "/".join(f"{item:g}" for item in value) if isinstance(value, list | tuple) else value


def index_row(run: RunDirectory, config: RunConfig | None = None) -> Row:
    """One row of the index: run_id, state, outcome, every configuration field by dotted name, last metrics.

    Raises Damaged. `config` stands in for a run that has no folder yet.
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
    row |= dict(_flat((config or run.config()).model_dump(mode="json"), ""))
    return row | {name: value for name, value in metrics.items() if name != "step"}


def index(out: Path, configs: Iterable[RunConfig] = ()) -> tuple[list[Row], list[Damaged]]:
    """One row for every run in the folder and for every run of `configs` (those of its sweep) without a folder.

    Damaged runs are left out and returned beside the rows.
    """
    rows: list[Row] = []
    damaged: list[Damaged] = []
    planned = {config.run_id: config for config in configs}
    for run in runs(out):
        started = run.file("config.json").exists()
        if not started and run.run_id not in planned and run.state() == "pending":
            continue  # an empty folder of no sweep
        try:
            row = index_row(run, None if started else planned.get(run.run_id))
        except Damaged as error:
            damaged.append(error)
            planned.pop(run.run_id, None)
        else:
            rows.append(row)
    present = {row["run_id"] for row in rows}
    missing = [config for run_id, config in planned.items() if run_id not in present]
    known = by_identity(out) if missing else {}
    return rows + [
        index_row(RunDirectory(out / "runs" / config.run_id), config)
        for config in missing
        if config.run_id not in known
    ], damaged


def write_index(out: Path, rows: Sequence[Row]) -> None:
    """Write OUT/index.parquet, unless it holds just that: then its time still says when a run last changed.

    A column in which texts and numbers meet (scales per stage) becomes text.
    """
    uniform = [dict(row) for row in rows]
    for name in {name for row in rows for name in row}:
        kinds = {type(row.get(name)) for row in rows} - {type(None)}
        if str in kinds and len(kinds) > 1:
            for row in uniform:
                value = row.get(name)
                row[name] = value if value is None or isinstance(value, str) else f"{value:g}"
    path, content = out / "index.parquet", to_parquet(uniform)
    if not (path.is_file() and path.read_bytes() == content):
        write_atomically(path, content)


def sweep_text(out: Path) -> str | None:
    """The sweep file that the folder belongs to, or None."""
    try:
        return (out / "sweep.yaml").read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_sweep_text(out: Path, text: str) -> None:
    """Make the folder that of a sweep."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "sweep.yaml", text.encode())
