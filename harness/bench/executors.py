"""How many short runs a minute each executor does, beside Ray Tune with the same trainer and a process a run."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import store
from harness.config import RunConfig
from harness.devices import cpu_count
from harness.files import write_atomically
from harness.located import InputError
from harness.store import RunDirectory
from harness.sweep.work import Task, work

PROCESSES = 12
"""Runs that are done in a process each: enough to tell what one takes."""
_QUIET = ["--wandb", "disabled"]


@dataclass(frozen=True)
class Rate:
    """What did the runs, how many, and the seconds of wall time from nothing to the last one's end."""

    name: str
    runs: int
    seconds: float

    @property
    def a_minute(self) -> float:
        """Runs a minute."""
        return 60 * self.runs / self.seconds


def measure_executors(file: Path, configs: Sequence[RunConfig], names: Sequence[str]) -> list[Rate]:
    """Do the runs of a sweep file from nothing by each of these: executors with their options, `tune`, `process`.

    Raises InputError for one that does not finish them.
    """
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        found = []
        for number, name in enumerate(names):
            out = Path(folder) / str(number)
            begin = time.monotonic()
            if name == "tune":
                _tune(configs, out)
            elif name == "process":
                _process_each(configs[:PROCESSES], out)
            else:
                _sweep(file, out, name)
            seconds = time.monotonic() - begin
            done = sum(run.state() == "finished" for run in store.runs(out))
            if done < (min(PROCESSES, len(configs)) if name == "process" else len(configs)):
                raise InputError([f"{name}: {done} of {len(configs)} runs were finished"])
            found.append(Rate(name, done, seconds))
        return found


def table(rates: Sequence[Rate]) -> str:
    """The rates as lines, each also as a multiple of a process a run and of Ray Tune where those were measured."""
    by_name = {rate.name: rate for rate in rates}
    lines = []
    for rate in rates:
        beside = [
            f"{rate.a_minute / by_name[other].a_minute:.2f}x {words}"
            for other, words in (("process", "a process a run"), ("tune", "Ray Tune"))
            if other in by_name and other != rate.name
        ]
        speed = f"{rate.runs:4d} runs {rate.seconds:7.1f} s {rate.a_minute:7.1f} a minute"
        lines.append(f"{rate.name:24} {speed}  {', '.join(beside)}")
    return "\n".join(lines)


def _sweep(file: Path, out: Path, executor: str) -> None:
    command = [sys.executable, "-m", "harness", "sweep", str(file), "--out", str(out), "--executor", *executor.split()]
    subprocess.run([*command, *_QUIET], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _process_each(configs: Sequence[RunConfig], out: Path) -> None:
    """Each run by its own `harness run`, one at a time on each core."""
    (out / "runs").mkdir(parents=True)
    files = [out / f"{config.run_id}.json" for config in configs]
    for file, config in zip(files, configs, strict=True):
        write_atomically(file, config.model_dump_json().encode())

    def run(file: Path) -> None:
        command = [sys.executable, "-m", "harness", "run", str(file), "--out", str(out), *_QUIET]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    with ThreadPoolExecutor(cpu_count()) as pool:
        list(pool.map(run, files))


def _tune(configs: Sequence[RunConfig], out: Path) -> None:
    """Ray Tune, each trial doing a run by the same function as every executor."""
    import ray
    from ray import tune

    def trial(settings: dict[str, Any]) -> None:
        config = RunConfig.model_validate_json(settings["config"])
        work(Task(config, Path(settings["out"]) / "runs" / config.run_id, "bench", None))
        tune.report({"done": RunDirectory(Path(settings["out"]) / "runs" / config.run_id).state() == "finished"})

    with contextlib.redirect_stdout(None):
        ray.init(
            address="local",
            num_cpus=cpu_count(),
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
        try:
            space = {"config": tune.grid_search([each.model_dump_json() for each in configs]), "out": str(out)}
            where = tune.RunConfig(storage_path=str(out / "tune"), verbose=0)
            tune.Tuner(tune.with_resources(trial, {"cpu": 1}), param_space=space, run_config=where).fit()
        finally:
            ray.shutdown()
