"""One run from the command line: a configuration file, fields that override it, and the run itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from harness import distributed, store
from harness.config import RunConfig
from harness.config.command_line import resolve
from harness.located import InputError
from harness.outcome import Outcome
from harness.plain import shown
from harness.sinks.sink import Histogram, Sink
from harness.sinks.wandb import WandbMode, WandbOptions, project
from harness.sweep.check import check_images, check_inputs
from harness.sweep.executors import BUSY_PAUSE
from harness.sweep.ranks import joined
from harness.sweep.run import sweep_of
from harness.sweep.work import Report, Task, interruptible, work

PLAIN_ROWS = 10
"""Without a terminal, every tenth row is printed."""


class _Show:
    """A sink that shows a single run: a progress bar on a terminal, plain lines elsewhere."""

    wants_histogram = False

    def __init__(self, config: RunConfig, console: Console) -> None:
        self._console, self._rows = console, 0
        self._progress = None
        if console.is_terminal:
            columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, TextColumn("{task.description}"), console=console, transient=True)
            self._task = self._progress.add_task("", total=config.train.steps)
            self._progress.start()

    def row(self, step: int, metrics: Mapping[str, Any], histogram: Histogram | None) -> None:
        """Show the row's loss and dead share."""
        readings = (("loss", "train/loss"), ("dead share", "prepool/dead_share_batch"))
        text = ", ".join(f"{name} {metrics[key]:.3g}" for name, key in readings if key in metrics)
        if self._progress:
            self._progress.update(self._task, completed=step, description=text)
        elif self._rows % PLAIN_ROWS == 0:
            self._console.print(f"step {step}: {text}")
        self._rows += 1

    def close(self, outcome: Outcome | None) -> None:
        """Stop showing."""
        if self._progress:
            self._progress.stop()


def run_single(settings: Sequence[str], out: Path, wandb: WandbMode, command: str, console: Console) -> bool:
    """Do the run that the command line gives, in `out`; True when it failed. Raises InputError.

    Under torchrun this process is one of the ranks of the run; rank 0 shows and writes.
    """
    config = resolve(settings)
    if distributed.world_size() > 1 and config.compute.processes == 1:
        compute = config.compute.model_copy(update={"processes": distributed.world_size()})
        config = config.model_copy(update={"compute": compute})
    check_inputs([config])
    leads = distributed.rank() == 0
    try:
        (out / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError([f"{out}: cannot be written: {error.strerror}"]) from None
    run = store.folders(out, [config])[config.run_id]
    check_images([config], {config.run_id: run})
    options = None
    if wandb != "disabled":
        options = WandbOptions(wandb, out, project(), config.model.name, (config.model.name, config.data.name))
    if leads:
        console.print(shown(f"run {run.run_id} in {run.path}"))

    def show() -> Sequence[Sink]:
        return [_Show(config, console)]

    task = Task(config, run.path, command, options)
    with interruptible(), joined(config):
        report = work(task, show)
        if report.state == "unsure" and distributed.world_size() == 1:
            report = _await(report, task, show, console)
    if leads:
        store.write_index(out, sweep_of(out).configs)
        return _tell(report, console)
    return report.state == "failed"


def _await(report: Report, task: Task, show: Callable[[], Sequence[Sink]], console: Console) -> Report:
    """Ask again until the process on another machine that holds the run is known to live, or to be dead."""
    console.print(shown(report.message))
    while report.state == "unsure":
        time.sleep(BUSY_PAUSE)
        report = work(task, show)
    return report


def _tell(report: Report, console: Console) -> bool:
    for note in report.notes:
        console.print(shown(note))
    if report.outcome is None:
        console.print(shown(f"{report.state}: {report.message}"))
        return True
    outcome = report.outcome
    console.print(shown(f"{outcome.outcome} at step {outcome.step}: {outcome.reason}"))
    return False
