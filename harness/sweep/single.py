"""One run from the command line: a configuration file, fields that override it, and the run itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from harness import distributed, store
from harness.config import RunConfig
from harness.data.check import count_training_images
from harness.located import Document, InputError, Loc, explain, parse, read
from harness.optim.schedules import Length, learning_rate
from harness.outcome import Outcome
from harness.sinks import Histogram, Sink, WandbMode, WandbOptions
from harness.sweep.executors import interruptible
from harness.sweep.run import WANDB_PROJECT, check_inputs, write_index
from harness.sweep.work import Report, Task, work

PLAIN_ROWS = 10
"""Without a terminal, every tenth row is printed."""


def resolve(settings: Sequence[str]) -> RunConfig:
    """The configuration that a command line gives: at most one file (YAML or JSON), then `key=value` fields.

    Raises InputError with every problem, each with its place.
    """
    problems: list[str] = []
    documents: list[tuple[tuple[str, ...], Document]] = []
    data: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if equals and not Path(setting).exists():
            path = tuple(key.split("."))
            try:
                documents.append((path, parse(f"value: {text}", f"command line, {key}")))
            except InputError as error:
                problems += error.problems
            else:
                _set(data, path, yaml.safe_load(text), problems, key)
        elif documents and documents[0][0] == ():
            problems.append(f"{setting}: a second configuration file; at most one, then key=value")
        elif documents:
            problems.append(f"{setting}: the configuration file comes before key=value")
        else:
            documents.append(((), read(Path(setting))))
            data = documents[0][1].data
    if problems:
        raise InputError(problems)

    def source(loc: Loc) -> tuple[Document, Loc] | None:
        """The last document that set the value at `loc`, and the value's place in it."""
        for path, document in reversed(documents):
            if path and loc[: len(path)] == path:
                return document, ("value", *loc[len(path) :])
            if not path:
                return document, loc
        return None

    def raw(loc: Loc) -> str | None:
        found = source(loc)
        return found[0].raw(found[1]) if found else None

    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        for loc, message in explain(error, RunConfig, raw):
            found = source(loc)
            if found is None or found[0].name.startswith("command line"):
                problems.append(f"command line: {message}")
            else:
                problems.append(f"{found[0].place(found[1])}: {message}")
        raise InputError(problems) from None


def _set(data: dict[str, Any], path: tuple[str, ...], value: Any, problems: list[str], key: str) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            problems.append(f"command line: {key}: {part} is not a section")
            return
    data[path[-1]] = value


def schedule(config: RunConfig) -> tuple[list[float], str]:
    """The learning rate of every update of a run, and the schedule in words.

    A two-phase warm-up is drawn as ending at the first check that could end it; when it will is not known beforehand.
    """
    optim, data = config.optim, config.data
    steps_per_epoch = count_training_images(data) // data.batch_size
    length = Length(config.train.steps or (config.train.epochs or 0) * steps_per_epoch, steps_per_epoch)
    words = f"{optim.name}, lr {optim.lr:g}, schedule {optim.schedule.name}"
    if optim.schedule.name == "exponential":
        words += f" (times {optim.schedule.rate:g} every {optim.schedule.every} {optim.schedule.unit})"
    switch_step = optim.warmup.window
    if optim.warmup.name != "none":
        words += f", warm-up {optim.warmup.name} from {optim.warmup.lr:g}"
        words += f" for {optim.warmup.steps} steps" if optim.warmup.steps else ""
    if optim.warmup.name == "two_phase":
        words += f", which ends when the training error falls below {optim.warmup.threshold:g}: drawn at its earliest"
    words += f"; {steps_per_epoch} steps an epoch"
    return [learning_rate(optim, step, length, switch_step) for step in range(length.steps)], words


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
    check_inputs([config])
    if config.data.batch_size % distributed.world_size():
        raise InputError(
            [f"data.batch_size: {config.data.batch_size} is not a multiple of the {distributed.world_size()} processes"]
        )
    leads = distributed.rank() == 0
    try:
        (out / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError([f"{out}: cannot be written: {error.strerror}"]) from None
    run = store.run_directory(out, config, store.by_identity(out))
    options = None
    if wandb != "disabled":
        options = WandbOptions(wandb, out, WANDB_PROJECT, config.model.name, (config.model.name, config.data.name))
    if leads:
        console.print(f"run {run.run_id} in {run.path}")

    def show() -> Sequence[Sink]:
        return [_Show(config, console)]

    with interruptible(), _ranks(config):
        report = work(Task(config, run.path, command, options), show)
    if leads:
        write_index(out)
        return _tell(report, console)
    return report.state == "failed"


@contextmanager
def _ranks(config: RunConfig) -> Iterator[None]:
    """Join the other ranks, if there are any."""
    if distributed.world_size() == 1:
        yield
        return
    from harness.trainee import pick_device

    with distributed.joined(pick_device(config.compute.device)):
        yield


def _tell(report: Report, console: Console) -> bool:
    for note in report.notes:
        console.print(note)
    if report.outcome is None:
        console.print(f"{report.state}: {report.message}", markup=False)
        return True
    outcome = report.outcome
    console.print(f"{outcome.outcome} at step {outcome.step}: {outcome.reason}")
    return False
