"""The run directory: every file it holds is written and read here only.

    OUT/sweep.yaml                  the sweep file as given
    OUT/index.parquet               one row a run, rebuilt from the runs at will
    OUT/runs/RUN_ID/config.json     resolved configuration and provenance, written before step 0
    OUT/runs/RUN_ID/metrics.jsonl   one append per row while running, sealed to metrics.parquet at the end
    OUT/runs/RUN_ID/checkpoint.pt   the latest state, tensors and plain values only
    OUT/runs/RUN_ID/outcome.json    written last, by rename: its presence means finished
    OUT/runs/RUN_ID/timelines.npz   which units of which layer were dead when, for presets that read layers
    OUT/runs/RUN_ID/failure.json    state failed: reason and traceback
    OUT/runs/RUN_ID/evaluations.json  what `harness evaluate` found
    OUT/runs/RUN_ID/claim.lock      locked by the process that works on the run; the lock ends with that process

A row that `append` has returned for survives SIGKILL. A damaged file is set aside, never read past.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import math
import os
import shutil
import socket
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from harness.config import RunConfig
from harness.outcome import Outcome

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
State = Literal["pending", "running", "finished", "failed"]

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_DATA_FILES = ("timelines.npz", "outcome.json", "metrics.jsonl", "metrics.parquet", "checkpoint.pt")


class Claimed(Exception):
    """Another living process works on this run."""


class Damaged(Exception):
    """A file of a run cannot be read; the message names the file and says what is wrong with it."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(f"{path}: damaged: {why}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` in the end: a reader sees the old or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by `replacing` it."""
    with replacing(path) as file:
        file.write(content)


def encode_row(row: Mapping[str, Any]) -> bytes:
    """One line of JSON; non-finite numbers as the strings NaN, Infinity, -Infinity (JSON has none)."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return value

    return json.dumps({key: plain(value) for key, value in row.items()}, allow_nan=False).encode() + b"\n"


def decode_row(line: bytes) -> Row:
    """The row that `encode_row` wrote. Raises ValueError for anything else."""
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise ValueError("not a row with a step")
    return {key: _NON_FINITE.get(value, value) if isinstance(value, str) else value for key, value in row.items()}


@dataclass(frozen=True)
class RunDirectory:
    """One run's folder, OUT/runs/RUN_ID."""

    path: Path

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.path.name

    def file(self, name: str) -> Path:
        """Path of one of the folder's files."""
        return self.path / name

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Own the run until the block or the process ends, however it ends. Raises Claimed if another process does.

        An advisory lock, so that a killed claimant leaves nothing behind that would have to be judged stale.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self.file("claim.lock").open("a+") as lock:
            for attempt in range(20):  # `claimed` holds the lock for microseconds; do not take that for a claimant
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt == 19:
                        raise Claimed(f"{self.path} is being worked on by {self._claimant()}") from None
                    time.sleep(0.01)
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield

    def _claimant(self) -> str:
        return self.file("claim.lock").read_text() or "another process"

    def claimed(self) -> bool:
        """Whether a living process works on this run."""
        try:
            with self.file("claim.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def state(self) -> State:
        """finished (an outcome is there), failed, running (claimed), or pending."""
        if self.file("outcome.json").exists():
            return "finished"
        if self.claimed():
            return "running"
        return "failed" if self.file("failure.json").exists() else "pending"

    # -- configuration -------------------------------------------------------------------------------------------

    def write_config(self, config: RunConfig, provenance: Mapping[str, Any]) -> None:
        """Put the resolved configuration on disk, with where it came from (git revision, versions, device, command).

        A run that continues keeps its first provenance; the later ones are listed under its key `continued`.
        """
        origin = dict(provenance)
        with contextlib.suppress(Damaged):
            before = self.provenance()
            if self.file("metrics.jsonl").exists() or self.file("checkpoint.pt").exists():
                origin = before | {"continued": [*before.get("continued", []), origin]}
        content = {"config": config.model_dump(mode="json"), "provenance": origin}
        write_atomically(self.file("config.json"), json.dumps(content, indent=1).encode())

    def config(self) -> RunConfig:
        """The run's configuration, resolved anew. Raises Damaged."""
        return self._read_config()[0]

    def provenance(self) -> dict[str, Any]:
        """Where the run came from. Raises Damaged."""
        return self._read_config()[1]

    def _read_config(self) -> tuple[RunConfig, dict[str, Any]]:
        path = self.file("config.json")
        try:
            content = json.loads(path.read_bytes())
            return RunConfig.model_validate(content["config"]), dict(content["provenance"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise Damaged(path, error) from None

    # -- rows ----------------------------------------------------------------------------------------------------

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, `step` and metrics by name. When this returns, the row survives the death of this process."""
        data = encode_row(row)
        descriptor = os.open(self.file("metrics.jsonl"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(descriptor, data)
            if written != len(data):
                raise OSError(
                    f"{self.file('metrics.jsonl')}: only {written} of {len(data)} bytes of a row were written"
                )
        finally:
            os.close(descriptor)

    def rows(self) -> list[Row]:
        """Every row in order of its step, a metric that a row lacks left out. Raises Damaged."""
        sealed = self.file("metrics.parquet")
        if sealed.exists() and self.file("outcome.json").exists():
            return _read_parquet(sealed)
        return self._open_rows()

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows in columns, null where a row lacks a metric; of `columns`, where given, those that the run has.

        A finished run's seal is checked on the way. Raises Damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.file("outcome.json")
        try:
            if path.exists():
                expected = json.loads(path.read_bytes())["metrics_sha256"]
                path = self.file("metrics.parquet")
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() != expected:
                    raise Damaged(path, "its content is not what was sealed")
            else:
                path = self.file("metrics.jsonl")
                content = _parquet(self._open_rows())
            names = None if columns is None else list(columns)
            return pq.ParquetFile(pa.BufferReader(content)).read(names, use_threads=False)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise Damaged(path, error) from None

    def _open_rows(self) -> list[Row]:
        path = self.file("metrics.jsonl")
        if not path.exists():
            return []
        rows: list[Row] = []
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise Damaged(path, error.strerror) from None
        for number, line in enumerate(lines[:-1], 1):
            try:
                rows.append(decode_row(line))
            except ValueError as error:
                raise Damaged(path, f"line {number}: {error}") from None
        return rows

    def reopen(self) -> int:
        """Make the open rows ready for more: drop a torn last line, which nobody was told of. Gives the last step.

        A run that continues repeats the steps after its checkpoint; its rows up to that last step are there already.
        Gives -1 when there are no rows. Raises Damaged.
        """
        rows = self._open_rows()
        path = self.file("metrics.jsonl")
        if path.exists():
            data = path.read_bytes()
            if not data.endswith(b"\n") and data:
                write_atomically(path, data[: data.rfind(b"\n") + 1])
        return rows[-1]["step"] if rows else -1

    # -- checkpoint ----------------------------------------------------------------------------------------------

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint by `state`: nested mappings and lists of tensors and plain values."""
        import torch

        with replacing(self.file("checkpoint.pt")) as file:
            torch.save(dict(state), file)

    def checkpoint(self) -> dict[str, Any] | None:
        """The latest checkpoint, on the CPU, or None. Raises Damaged."""
        import torch

        path = self.file("checkpoint.pt")
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # zip, pickle and runtime errors of many kinds
            raise Damaged(path, str(error).split("\n")[0]) from None
        if not isinstance(state, dict):
            raise Damaged(path, "not a mapping")
        return state

    # -- timelines of unit deaths --------------------------------------------------------------------------------

    def write_timelines(self, timelines: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the timelines of unit deaths, as arrays by name (`harness.timeline.Timeline.to_arrays`)."""
        import numpy as np

        arrays = {f"{name}/{key}": array for name, parts in timelines.items() for key, array in parts.items()}
        with replacing(self.file("timelines.npz")) as file:
            np.savez_compressed(file, **arrays)

    def timelines(self) -> dict[str, dict[str, Any]]:
        """The timelines of unit deaths by name; none for a run whose preset reads no layers. Raises Damaged."""
        import numpy as np

        path = self.file("timelines.npz")
        found: dict[str, dict[str, Any]] = {}
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for full_name in arrays.files:
                    name, _, key = full_name.rpartition("/")
                    found.setdefault(name, {})[key] = arrays[full_name]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise Damaged(path, error) from None
        return found

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self, outcome: Outcome) -> None:
        """Seal the rows and write the outcome, which makes the run finished."""
        rows = self._open_rows()
        sealed = _parquet(rows)
        write_atomically(self.file("metrics.parquet"), sealed)
        content = outcome.as_dict() | {
            "metrics": json.loads(encode_row(_last_values(rows))),
            "metrics_sha256": hashlib.sha256(sealed).hexdigest(),
        }
        write_atomically(self.file("outcome.json"), json.dumps(content, indent=1).encode())
        self.file("metrics.jsonl").unlink(missing_ok=True)

    def outcome(self) -> tuple[Outcome, Row]:
        """The outcome and the last value of each metric. Raises Damaged."""
        path = self.file("outcome.json")
        try:
            content = json.loads(path.read_bytes())
            metrics = decode_row(json.dumps(content.pop("metrics")).encode())
            content.pop("metrics_sha256")
            return Outcome(**content), metrics
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(path, error) from None

    def verify(self) -> None:
        """Read what the run holds. Raises Damaged if an outcome, its sealed rows, open rows or configuration are."""
        if self.file("outcome.json").exists():
            self.outcome()
            expected = json.loads(self.file("outcome.json").read_bytes())["metrics_sha256"]
            sealed = self.file("metrics.parquet")
            try:
                found = hashlib.sha256(sealed.read_bytes()).hexdigest()
            except OSError as error:
                raise Damaged(sealed, error.strerror) from None
            if found != expected:
                raise Damaged(sealed, "its content is not what was sealed")
            self.config()
        else:
            self._open_rows()

    def add_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Keep an evaluation of the run's network (`harness evaluate`) beside those before it."""
        content = json.dumps([*self.evaluations(), dict(evaluation)], indent=1)
        write_atomically(self.file("evaluations.json"), content.encode())

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations of the run's network, in the order in which they were made. Raises Damaged."""
        path = self.file("evaluations.json")
        try:
            return list(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise Damaged(path, error) from None

    def fail(self, reason: str, traceback: str) -> None:
        """Record that the run could not be finished."""
        content = {"reason": reason, "traceback": traceback, "time": time.strftime("%Y-%m-%d %H:%M:%S")}
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file("failure.json"), json.dumps(content, indent=1).encode())

    def failure(self) -> str | None:
        """Why the run failed, or None."""
        try:
            return str(json.loads(self.file("failure.json").read_bytes())["reason"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return "its failure.json is damaged"

    def forget_failure(self) -> None:
        """Remove the record of a failure, before the run is tried again."""
        self.file("failure.json").unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Move the run's outcome, rows and checkpoint into a numbered folder inside it, so that it can be repeated."""
        number = 1
        while (folder := self.path / f"damaged-{number}").exists():
            number += 1
        folder.mkdir(parents=True)
        for name in _DATA_FILES:
            with contextlib.suppress(FileNotFoundError):
                self.file(name).rename(folder / name)
        return folder


def _last_values(rows: Iterable[Row]) -> Row:
    last: Row = {"step": -1}
    for row in rows:
        last |= {key: value for key, value in row.items() if value is not None}
    return last


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row)) or ["step"]
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _column(values: list[Any]) -> Any:
    """An Arrow array of values of one kind, None where there is none. A metric is whole or real, never both.

    Numbers are put together by hand: pyarrow.array imports pandas, 60 MB in each worker for nothing.
    """
    import numpy as np
    import pyarrow as pa

    present = [value for value in values if value is not None]
    if any(isinstance(value, str | bool) for value in present):
        return pa.array(values)
    kind, arrow = (float, pa.float64()) if any(isinstance(v, float) for v in present) else (int, pa.int64())
    numbers = np.array([0 if value is None else value for value in values], dtype=kind)
    there = np.packbits(np.array([value is not None for value in values], dtype=bool), bitorder="little")
    return pa.Array.from_buffers(arrow, len(values), [pa.py_buffer(there.tobytes()), pa.py_buffer(numbers.tobytes())])


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, partitioning=None).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise Damaged(path, error) from None
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


# -- the output folder -------------------------------------------------------------------------------------------------


def runs(out: Path) -> list[RunDirectory]:
    """Every run folder in an output folder, in order of name."""
    folder = out / "runs"
    if not folder.is_dir():
        return []
    return [RunDirectory(path) for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def run_directory(out: Path, config: RunConfig, known: Mapping[str, RunDirectory] | None = None) -> RunDirectory:
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
    temporary = run.path.with_name(f".{run.run_id}.{os.getpid()}.tmp")
    shutil.copytree(source.path, temporary, ignore=shutil.ignore_patterns("claim.lock", "damaged-*"))
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
        metrics = _last_values(run.rows())
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
    path, content = out / "index.parquet", _parquet(uniform)
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
