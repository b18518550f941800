"""What every executor does with a run: claim it, repair its folder, train it, record how that went."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.config import RunConfig
from harness.outcome import Outcome
from harness.store import Claimed, Damaged, RunDirectory

if TYPE_CHECKING:
    from harness.sinks import Sink, WandbOptions


@dataclass(frozen=True)
class Task:
    """One run to be done: its configuration, its folder, the command that asked for it, and its wandb mirror."""

    config: RunConfig
    folder: Path
    command: str
    wandb: WandbOptions | None


@dataclass(frozen=True)
class Report:
    """How a task went.

    finished: with `outcome`; failed: with `message`, and the traceback in the run's folder; busy: another process
    works on the run. notes: files that were found damaged.
    """

    run_id: str
    state: Literal["finished", "failed", "busy"]
    message: str = ""
    outcome: Outcome | None = None
    notes: tuple[str, ...] = ()


def work(task: Task, extra_sinks: Callable[[], Sequence[Sink]] = lambda: ()) -> Report:
    """Do a run, or find it done. Exceptions of the run end up in its folder, not here."""
    run = RunDirectory(task.folder)
    notes: list[str] = []
    try:
        with run.claim():
            try:
                run.verify()
            except Damaged as damage:
                notes.append(_set_aside(run, damage))
            if run.state() == "finished":
                return Report(run.run_id, "finished", outcome=run.outcome()[0], notes=tuple(notes))
            try:
                outcome = _train(task, run, extra_sinks)
            except Damaged as damage:  # its checkpoint
                notes.append(_set_aside(run, damage))
                outcome = _train(task, run, extra_sinks)
            return Report(run.run_id, "finished", outcome=outcome, notes=tuple(notes))
    except Claimed as claimed:
        return Report(run.run_id, "busy", str(claimed))
    except Exception as error:
        return failed(run, error, notes)


def failed(run: RunDirectory, error: BaseException, notes: Sequence[str] = ()) -> Report:
    """Record a failure in the run's folder, as far as the disk allows, and report it."""
    reason = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    try:
        run.fail(reason, "".join(traceback.format_exception(error)))
    except OSError as problem:
        reason += f" (and its failure could not be written: {problem})"
    return Report(run.run_id, "failed", reason, notes=tuple(notes))


def _set_aside(run: RunDirectory, damage: Damaged) -> str:
    return f"{damage}; set aside in {run.set_aside().name}/, and the run is repeated"


def _train(task: Task, run: RunDirectory, extra_sinks: Callable[[], Sequence[Sink]]) -> Outcome:
    from harness.provenance import processor, provenance
    from harness.sinks import WandbSink
    from harness.train import pick_device, train

    run.forget_failure()
    device = pick_device(task.config.compute.device)
    name = processor()
    if device.type == "cuda":
        import torch

        name = torch.cuda.get_device_name(device)
    run.write_config(task.config, provenance(f"{device.type}: {name}", task.command))

    def mirrors() -> list[Sink]:
        wandb = [] if task.wandb is None else [WandbSink(task.config, run, task.wandb)]
        return [*wandb, *extra_sinks()]

    return train(task.config, run, mirrors)
