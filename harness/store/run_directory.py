"""One run's folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from harness.config import RunConfig
from harness.files import replacing, write_atomically
from harness.outcome import Outcome
from harness.store.damage import Damaged
from harness.store.lock import held, is_held
from harness.store.rows import Row, decode_row, encode_row, last_values, read_parquet, to_parquet

if TYPE_CHECKING:
    import pyarrow as pa


State = Literal["pending", "running", "finished", "failed"]
_DATA_FILES = ("timelines.npz", "outcome.json", "metrics.jsonl", "metrics.parquet", "checkpoint.pt")


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
        """Own the run until the block or the process ends, however it ends. Raises Locked if another process does."""
        self.path.mkdir(parents=True, exist_ok=True)
        with held(self.file("run.lock")):
            yield

    def is_locked(self) -> bool:
        """Whether a living process works on this run."""
        return is_held(self.file("run.lock"))

    def state(self) -> State:
        """finished (an outcome is there), failed, running (locked), or pending."""
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
            return read_parquet(sealed)
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
                content = to_parquet(self._open_rows())
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
        sealed = to_parquet(rows)
        write_atomically(self.file("metrics.parquet"), sealed)
        content = outcome.as_dict() | {
            "metrics": json.loads(encode_row(last_values(rows))),
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
