"""What an output folder holds: runs by state and outcome."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from harness import store
from harness.config import RunConfig
from harness.devices import gpus
from harness.located import InputError
from harness.plain import shown
from harness.sweep.executors import slurm


@dataclass(frozen=True)
class GpuUse:
    """A GPU of this machine: share of time that it works, None if unknown; bytes of memory in use and in all; runs."""

    index: str
    name: str
    busy: float | None
    used: int
    memory: int
    runs: int


@dataclass(frozen=True)
class Status:
    """Counts of runs by state and by outcome, the failures with their reasons, damaged runs, and Slurm's jobs.

    jobs: those of the folder that are queued or run, counted by state and reason, or node. gpus: this machine's.
    dead_when_last_seen: runs that survived, all of whose pre-pool units were dead at their last reading: too late to be
    confirmed.
    """

    out: Path
    states: Mapping[str, int]
    outcomes: Mapping[str, int]
    failures: Mapping[str, str]
    damaged: tuple[str, ...]
    jobs: Mapping[str, int]
    gpus: tuple[GpuUse, ...]
    dead_when_last_seen: int = 0

    @property
    def done(self) -> bool:
        """Whether no run is running or pending."""
        return not (self.states.get("running") or self.states.get("pending"))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        return {
            "runs": sum(self.states.values()),
            "states": dict(self.states),
            "outcomes": dict(self.outcomes),
            "dead_when_last_seen": self.dead_when_last_seen,
            "failures": dict(self.failures),
            "damaged": list(self.damaged),
            "jobs": dict(self.jobs),
            "gpus": [asdict(gpu) for gpu in self.gpus],
        }


def read_status(out: Path, planned: Iterable[RunConfig] = ()) -> Status:
    """Read an output folder; `planned` are the runs of its sweep. Raises InputError when it is none."""
    if not out.is_dir():
        raise InputError([f"{out}: {'not a' if out.exists() else 'no such'} folder"])
    if not (out / "runs").is_dir():
        raise InputError([f"{out}: not an output folder: it has no runs/"])
    found = store.index(out, planned)
    rows = [*found.rows, *found.pending]
    counts = Counter(row["state"] for row in rows)
    return Status(
        out=out,
        states={state: counts[state] for state in ("pending", "running", "finished", "failed")},
        outcomes=dict(sorted(Counter(row["outcome"] for row in rows if row["outcome"]).items())),
        failures={row["run_id"]: row["failure"] for row in rows if row["state"] == "failed"},
        damaged=tuple(str(error) for error in found.damaged),
        jobs=Counter(f"{job.state} {job.node or job.reason}" for job in slurm.jobs(*slurm.submitted(out))),
        gpus=_gpus(out, [row["run_id"] for row in rows if row["state"] == "running"]),
        dead_when_last_seen=sum(row["outcome"] == "survived" and _all_dead(row) for row in rows),
    )


def _all_dead(row: store.Row) -> bool:
    share = row.get("prepool/dead_share_probe")
    return (row.get("prepool/dead_share_batch") if share is None else share) == 1


def _gpus(out: Path, running: Iterable[str]) -> tuple[GpuUse, ...]:
    found = gpus()
    used = Counter[str]()
    for run_id in running if found else ():
        with contextlib.suppress(store.Damaged):
            origin = store.RunDirectory(out / "runs" / run_id).provenance()
            if origin.get("host") == socket.gethostname():
                used.update(str(origin.get("gpu", "")).split(","))
    return tuple(
        GpuUse(gpu.index, gpu.name, gpu.busy, gpu.used, gpu.memory, used[gpu.index] + used[gpu.uuid]) for gpu in found
    )


def status_table(status: Status) -> RenderableType:
    """The status for a terminal."""
    table = Table("runs", *status.states, *status.outcomes, "damaged", box=None, title=shown(status.out))
    counts = (sum(status.states.values()), *status.states.values(), *status.outcomes.values(), len(status.damaged))
    table.add_row(*(str(count) for count in counts))
    parts: list[RenderableType] = [table]
    if count := status.dead_when_last_seen:
        parts.append(shown(f"survived, but with every pre-pool unit dead when last seen: {count}"))
    parts += [shown(f"failed: {run_id}: {reason}") for run_id, reason in status.failures.items()]
    parts += map(shown, status.damaged)
    if status.jobs:
        parts.append(shown("Slurm's jobs: " + ", ".join(f"{count} {what}" for what, count in status.jobs.items())))
    if status.gpus:
        table = Table("GPU", "name", "busy", "memory", "runs", box=None)
        for gpu in status.gpus:
            memory = f"{gpu.used / 2**30:.1f} of {gpu.memory / 2**30:.1f} GiB"
            busy = "" if gpu.busy is None else f"{gpu.busy:.0%}"
            table.add_row(shown(gpu.index), shown(gpu.name), busy, memory, str(gpu.runs))
        parts.append(table)
    return Group(*parts)
