"""One run's folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from harness.config import RunConfig
from harness.files import TEMPORARY, named, numbered, replacing, write_atomically
from harness.outcome import Outcome
from harness.store import lease
from harness.store.damage import Damaged
from harness.store.rows import Row, decode_row, encode_row, last_values, read_parquet, to_parquet

if TYPE_CHECKING:
    import pyarrow as pa


State = Literal["pending", "running", "finished", "failed"]
FILES = ("timelines.npz", "outcome.json", "metrics.jsonl", "metrics.parquet", "checkpoint.pt", "config.json",
         "failure.json", "evaluations.json")  # fmt: skip
"""Every file of a run, its lease apart."""
EVALUATION = frozenset({"networks", "weights", "dataset", "protocol", "images", "paper"}) | {
    f"{which}_{what}" for which in ("top1", "top5") for what in ("error", "low", "high")
}
"""What an evaluation holds at the least."""
_SEALED = ("timelines.npz", "checkpoint.pt")
"""Files of a finished run whose content its outcome.json vouches for, beside the rows."""


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
    def lock(self) -> Iterator[None]:
        """Own the run until the block or the process ends, however it ends. Raises Locked if another process does.

        Should another process take it over meanwhile, because nothing was heard of this one, what writes rows,
        checkpoints and the outcome raises Lost.
        """
        self._make()
        with lease.held(self.path):
            yield

    def _make(self) -> None:
        """Make the folder; what else stands in its place is moved out of the way."""
        if os.path.lexists(self.path) and not self.path.is_dir():
            self.path.rename(numbered(self.path.with_name(f".{self.run_id}.damaged")))
        self.path.mkdir(parents=True, exist_ok=True)

    def is_locked(self) -> bool:
        """Whether a living process works on this run."""
        return lease.is_held(self.path)

    def state(self) -> State:
        """finished (an outcome is there), failed, running (held by a living process), or pending."""
        if self.file("outcome.json").exists():
            return "finished"
        if self.is_locked():
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
        content = {"run_id": self.run_id, "config": config.model_dump(mode="json"), "provenance": origin}
        write_atomically(self.file("config.json"), json.dumps(content, indent=1).encode())

    def rename_to(self, run_id: str) -> None:
        """Let the configuration say that it is that of a run of another name."""
        path = self.file("config.json")
        write_atomically(path, json.dumps(json.loads(path.read_bytes()) | {"run_id": run_id}, indent=1).encode())

    def config(self) -> RunConfig:
        """The run's configuration, resolved anew. Raises Damaged."""
        stored, _ = self._read_config()
        try:
            return RunConfig.model_validate(stored)
        except ValidationError as error:
            raise Damaged(self.file("config.json"), error) from None

    def provenance(self) -> dict[str, Any]:
        """Where the run came from. Raises Damaged."""
        _, origin = self._read_config()
        return origin

    def _read_config(self) -> tuple[dict[str, Any], dict[str, Any]]:
        path = self.file("config.json")
        try:
            content = json.loads(path.read_bytes())
            config, origin = dict(content["config"]), dict(content["provenance"])
            of = content.get("run_id", self.run_id)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(path, error) from None
        if of != self.run_id:
            raise Damaged(path, f"it is that of run {of}")
        return config, origin

    # -- rows ----------------------------------------------------------------------------------------------------

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, `step` and metrics by name. When this returns, the row survives the death of this process.

        A line says whose it is, so that another run's rows are known as such. Raises Lost.
        """
        lease.check(self.path)
        data, path = encode_row({**row, "run_id": self.run_id}), self.file("metrics.jsonl")
        with named(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                written = os.write(descriptor, data)
                if written != len(data):  # the rest of the line did not fit
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)

    def rows(self) -> list[Row]:
        """Every row in order of its step, a metric that a row lacks left out. Raises Damaged."""
        sealed = self.file("metrics.parquet")
        if sealed.exists() and self.file("outcome.json").exists():
            return read_parquet(sealed)
        return self.open_rows()

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows in columns, null where a row lacks a metric; of `columns`, where given, those that the run has.

        A finished run's seal is checked on the way. Raises Damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        finished = self.file("outcome.json").exists()
        try:
            content = self.sealed_rows() if finished else to_parquet(self.open_rows())
            names = None if columns is None else list(columns)
            return pq.ParquetFile(pa.BufferReader(content)).read(names, use_threads=False)
        except (OSError, ValueError, TypeError, pa.ArrowException) as error:
            raise Damaged(self.file("metrics.parquet" if finished else "metrics.jsonl"), error) from None

    def sealed_rows(self) -> bytes:
        """The content of a finished run's metrics.parquet. Raises Damaged unless it is what was sealed."""
        path, expected = self.file("metrics.parquet"), self.sealed_outcome()["metrics_sha256"]
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise Damaged(path, "missing, though the run is finished") from None
        except OSError as error:
            raise Damaged(path, error) from None
        if hashlib.sha256(content).hexdigest() != expected:
            raise Damaged(path, "its content is not what was sealed")
        return content

    def open_rows(self) -> list[Row]:
        """The rows of a run that goes on, in the order in which they were written.

        Raises Damaged for a line that is none of this run's rows, or whose step is not above that of the line before.
        """
        path = self.file("metrics.jsonl")
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Damaged(path, error.strerror) from None
        rows: list[Row] = []
        for number, line in enumerate(lines[:-1], 1):
            try:
                row = decode_row(line)
            except (ValueError, RecursionError) as error:
                raise Damaged(path, f"line {number}: {error}") from None
            if (of := row.pop("run_id", self.run_id)) != self.run_id:
                raise Damaged(path, f"line {number}: a row of run {of}")
            if rows and row["step"] <= rows[-1]["step"]:
                raise Damaged(path, f"line {number}: step {row['step']} after step {rows[-1]['step']}")
            rows.append(row)
        return rows

    def reopen(self) -> list[Row]:
        """The open rows, made ready for more: a torn last line, which nobody was told of, is dropped.

        A run that continues repeats the steps after its checkpoint; its rows up to the last step are there already.
        Raises Damaged.
        """
        rows = self.open_rows()
        path = self.file("metrics.jsonl")
        if path.exists():
            data = path.read_bytes()
            if not data.endswith(b"\n") and data:
                write_atomically(path, data[: data.rfind(b"\n") + 1])
        return rows

    def drop_rows(self, step: int) -> None:
        """Forget the open rows from a step on, which are to be made anew in another way. Raises Damaged."""
        rows = self.reopen()
        kept = sum(row["step"] < step for row in rows)
        if kept < len(rows):
            lines = self.file("metrics.jsonl").read_bytes().splitlines(keepends=True)
            write_atomically(self.file("metrics.jsonl"), b"".join(lines[:kept]))

    # -- checkpoint ----------------------------------------------------------------------------------------------

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint by `state`: nested mappings and lists of tensors and plain values, `step` among them.

        The open rows that there are belong to it: `verify` holds them against it before the run continues. Raises Lost.
        """
        lease.check(self.path)
        import torch

        with replacing(self.file("checkpoint.pt")) as file:
            remembering = _Remembering(file)
            try:
                torch.save({**state, "rows": self._rows_so_far()}, remembering)  # type: ignore[arg-type]
            except RuntimeError:  # torch's "unexpected pos" hides the disk's own error
                raise remembering.error or sys.exception() from None  # type: ignore[misc]

    def checkpoint(self) -> dict[str, Any] | None:
        """The latest checkpoint, on the CPU, or None. Raises Damaged, also for another run's."""
        path = self.file("checkpoint.pt")
        if not path.exists():
            return None
        import torch  # takes seconds, of which a sweep that begins needs none

        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # zip, pickle and runtime errors of many kinds
            why = str(error).split("\n")[0] or type(error).__name__
            raise Damaged(path, why if path.stat().st_size else "empty") from None
        if not isinstance(state, dict):
            raise Damaged(path, "not a mapping")
        step, of = state.get("step"), state.get("run_id")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise Damaged(path, "a checkpoint without a step")
        if of != self.run_id and of != self.config().run_id:
            raise Damaged(path, f"it is that of run {of}")
        return state

    def _rows_so_far(self) -> dict[str, Any]:
        """How long the open rows are, in bytes, and their digest."""
        try:
            content = self.file("metrics.jsonl").read_bytes()
        except FileNotFoundError:
            content = b""
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

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
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise Damaged(path, error) from None
        return found

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self, outcome: Outcome) -> None:
        """Seal the rows and write the outcome, which makes the run finished. Raises Lost."""
        lease.check(self.path)
        rows = self.open_rows()
        sealed = to_parquet(rows)
        write_atomically(self.file("metrics.parquet"), sealed)
        content = outcome.as_dict() | {
            "metrics": json.loads(encode_row(last_values(rows))),
            "metrics_sha256": hashlib.sha256(sealed).hexdigest(),
            "sealed": {name: seal_of(self.file(name)) for name in _SEALED if self.file(name).exists()},
        }
        write_atomically(self.file("outcome.json"), json.dumps(content, indent=1).encode())
        self.file("metrics.jsonl").unlink(missing_ok=True)

    def outcome(self) -> tuple[Outcome, Row]:
        """The outcome and the last value of each metric. Raises Damaged."""
        content = self.sealed_outcome()
        try:
            metrics = content.pop("metrics")
            metrics = last_values([]) if metrics == {"step": -1} else decode_row(json.dumps(metrics).encode())
            plain = {name: value for name, value in content.items() if name not in ("metrics_sha256", "sealed")}
            return Outcome.from_dict(plain), metrics
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(self.file("outcome.json"), error) from None

    def sealed_outcome(self) -> dict[str, Any]:
        """All that outcome.json holds: the outcome, the last metrics, and what it vouches for. Raises Damaged."""
        path = self.file("outcome.json")
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise Damaged(path, error) from None
        if not isinstance(content, dict) or not isinstance(content.get("metrics_sha256"), str):
            raise Damaged(path, "not an outcome with the digest of its rows")
        return content

    def add_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Keep an evaluation of the run's network (`harness evaluate`) beside those before it."""
        content = json.dumps([*self.evaluations(), dict(evaluation)], indent=1)
        write_atomically(self.file("evaluations.json"), content.encode())

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations of the run's network, in the order in which they were made. Raises Damaged."""
        path = self.file("evaluations.json")
        try:
            found = list(json.loads(path.read_bytes()))
            for each in found:
                if missing := sorted(EVALUATION - each.keys()):
                    raise ValueError(f"an evaluation without {', '.join(missing)}")
            return found
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
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
        """Move all that the run holds into a numbered folder inside it, so that it can be repeated from the start."""
        folder = numbered(self.file("damaged"))
        folder.mkdir(parents=True)
        for name in FILES:
            with contextlib.suppress(FileNotFoundError):
                self.file(name).rename(folder / name)
        return folder

    def sweep_out(self) -> None:
        """Remove what killed processes were writing. Only for the process that owns the run."""
        for left in self.path.glob(TEMPORARY):
            left.unlink(missing_ok=True)


def seal_of(path: Path) -> dict[str, Any]:
    """What tells whether a file is still the same: its size, time of change and digest."""
    stat = path.stat()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}


class _Remembering:
    """A file to write that remembers the system's error, which torch.save replaces by one of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()
