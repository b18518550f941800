"""What every executor does with a run: lock it, repair its folder, train it, record how that went."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness import distributed
from harness.config import RunConfig
from harness.outcome import Outcome
from harness.store import Damaged, Locked, RunDirectory

if TYPE_CHECKING:
    from harness.sinks.sink import Sink
    from harness.sinks.wandb import WandbOptions


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


class Terminated(KeyboardInterrupt):
    """SIGTERM: the end that a scheduler or a launcher asks for."""


def work(task: Task, extra_sinks: Callable[[], Sequence[Sink]] = lambda: ()) -> Report:
    """Do a run, or find it done. Exceptions of the run end up in its folder, not here.

    Under torchrun every rank calls this; rank 0 locks the run and says whether there is anything to train.
    """
    run = RunDirectory(task.folder)
    notes: list[str] = []
    try:
        if distributed.rank() > 0:
            return _follow(task, run)
        with run.lock():
            try:
                run.verify()
                if run.state() != "finished":
                    run.checkpoint()
            except Damaged as damage:
                notes.append(f"{damage}; set aside in {run.set_aside().name}/, and the run is repeated")
            if run.state() != "finished":
                return Report(run.run_id, "finished", outcome=_train(task, run, extra_sinks), notes=tuple(notes))
            distributed.agreed(False)
            return Report(run.run_id, "finished", outcome=run.outcome()[0], notes=tuple(notes))
    except Locked as locked:
        distributed.agreed(False)
        return Report(run.run_id, "busy", str(locked))
    except Terminated:
        if distributed.world_size() > 1:  # torchrun ends every rank when one of them ended
            failed(run, RuntimeError("torchrun ended the ranks, as it does when one of them has died"))
        raise
    except Exception as error:
        return failed(run, error, notes)


def failed(run: RunDirectory, error: BaseException, notes: Sequence[str] = ()) -> Report:
    """Record a failure in the run's folder, as far as the disk allows, and report it."""
    reason = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    if distributed.world_size() > 1:
        reason = f"rank {distributed.rank()}: {reason}"
    try:
        run.fail(reason, "".join(traceback.format_exception(error)))
    except OSError as problem:
        reason += f" (and its failure could not be written: {problem})"
    return Report(run.run_id, "failed", reason, notes=tuple(notes))


def _follow(task: Task, run: RunDirectory) -> Report:
    """What the ranks above 0 do: train when rank 0 says so, and write nothing."""
    from harness.training.train import train

    if not distributed.agreed(None):
        return Report(run.run_id, "finished")
    return Report(run.run_id, "finished", outcome=train(task.config, run))


def _train(task: Task, run: RunDirectory, extra_sinks: Callable[[], Sequence[Sink]]) -> Outcome:
    from harness.devices import pick_device
    from harness.provenance import processor, provenance
    from harness.sinks.wandb import WandbSink
    from harness.training.train import train

    run.forget_failure()
    device = pick_device(task.config.compute.device)
    name = processor()
    if device.type == "cuda":
        import torch

        name = torch.cuda.get_device_name(device)
    run.write_config(task.config, provenance(f"{device.type}: {name}", task.command))

    distributed.agreed(True)

    def mirrors() -> list[Sink]:
        wandb = [] if task.wandb is None else [WandbSink(task.config, run, task.wandb)]
        return [*wandb, *extra_sinks()]

    return train(task.config, run, mirrors)
