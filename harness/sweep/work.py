"""What every executor does with a run: lock it, repair its folder, train it, record how that went."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness import distributed, store
from harness.config import RunConfig
from harness.files import explain_system
from harness.outcome import Outcome
from harness.store import Damaged, Locked, Lost, RunDirectory
from harness.sweep.ranks import launch

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
    works on the run; unsure: one of another machine, which may be dead, as will be known when it is asked for again.
    notes: files that were found damaged. out_of_memory: it failed because others had, or it needs, more than there is.
    """

    run_id: str
    state: Literal["finished", "failed", "busy", "unsure"]
    message: str = ""
    outcome: Outcome | None = None
    notes: tuple[str, ...] = ()
    out_of_memory: bool = False

    @property
    def ended(self) -> bool:
        """Whether the run is done with, well or badly."""
        return self.state in ("finished", "failed")


class Terminated(KeyboardInterrupt):
    """SIGTERM: the end that a scheduler or a launcher asks for."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that a scheduler's polite end stops the workers too."""

    def interrupt(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def device_of(tasks: Iterable[Task]) -> str:
    """The one device that runs ask for; runs that ask for several share the workers of `auto`."""
    named = {task.config.compute.device for task in tasks}
    return named.pop() if len(named) == 1 else "auto"


def processes_of(tasks: Iterable[Task]) -> int:
    """The most processes that one of the runs takes."""
    return max(task.config.compute.processes for task in tasks)


def work(task: Task, extra_sinks: Callable[[], Sequence[Sink]] = lambda: ()) -> Report:
    """Do a run, or find it done. Exceptions of the run end up in its folder, not here.

    Under torchrun every rank calls this; rank 0 locks the run and says whether there is anything to train. A run of
    several processes is given to torch's launcher.
    """
    run = RunDirectory(task.folder)
    notes: list[str] = []
    try:
        if task.config.compute.processes > 1 and distributed.world_size() == 1:
            return launch(task)
        if distributed.rank() > 0:
            return _follow(task, run)
        with run.lock():
            run.sweep_out()
            try:
                store.verify(run)
            except Damaged as damage:
                notes.append(_set_aside(run, damage))
            if run.state() == "finished":
                distributed.agreed(False)
                return Report(run.run_id, "finished", outcome=run.outcome()[0], notes=tuple(notes))
            try:
                outcome = _train(task, run, extra_sinks)
            except Damaged as damage:  # seen only when the steps after the checkpoint were done again
                notes.append(_set_aside(run, damage))
                if distributed.world_size() > 1:  # the other ranks are in the middle of a step
                    raise
                outcome = _train(task, run, extra_sinks)
            return Report(run.run_id, "finished", outcome=outcome, notes=tuple(notes))
    except Lost as lost:
        if distributed.world_size() > 1:  # the other ranks are in the middle of a step
            raise
        return Report(run.run_id, "busy", str(lost))
    except Locked as locked:
        distributed.agreed(False)
        return Report(run.run_id, "busy" if locked.lives else "unsure", str(locked))
    except Terminated:
        if distributed.world_size() > 1:  # torchrun ends every rank when one of them ended
            failed(run, RuntimeError("torchrun ended the ranks, as it does when one of them has died"))
        raise
    except Exception as error:
        return failed(run, error, notes)


def _set_aside(run: RunDirectory, damage: Damaged) -> str:
    return f"{damage}; set aside in {run.set_aside().name}/, and the run is repeated"


def images_of(config: RunConfig) -> dict[str, str]:
    """What is kept beside a configuration whose id names a folder of images by a path that may be relative."""
    if config.data.name != "imagefolder" or config.data.root is None:
        return {}
    return {"images": str(Path(config.data.root).resolve())}


def same_images(config: RunConfig, run: RunDirectory) -> bool:
    """Whether a run's folder holds what was trained on the images that the configuration names here and now."""
    try:
        held = run.provenance().get("images")
    except Damaged:
        return True  # of nobody's images: the run is set aside and repeated
    return held is None or held == images_of(config).get("images")


def failed(run: RunDirectory, error: BaseException, notes: Sequence[str] = ()) -> Report:
    """Record a failure in the run's folder, as far as the disk allows, and report it."""
    words = explain_system(error) if isinstance(error, OSError) else str(error)
    reason = f"{type(error).__name__}: {words}".strip().removesuffix(":")
    if distributed.world_size() > 1:
        reason = f"rank {distributed.rank()}: {reason}"
    try:
        with _held_back():
            run.fail(reason, "".join(traceback.format_exception(error)))
    except OSError as problem:
        reason += f" (and its failure could not be written: {explain_system(problem)})"
    return Report(run.run_id, "failed", reason, notes=tuple(notes), out_of_memory=_lacked_memory(error))


def _lacked_memory(error: BaseException) -> bool:
    """Whether an error is Python's, CUDA's or torch's own of memory that is not there."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "DefaultCPUAllocator" in str(error)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Let SIGTERM wait for the end of the block: torchrun sends it just when a rank records that another has died."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if came:
        signal.raise_signal(signal.SIGTERM)


def _follow(task: Task, run: RunDirectory) -> Report:
    """What the ranks above 0 do: train when rank 0 says so, and write nothing."""
    from harness.training.train import train

    if not distributed.agreed(None):
        return Report(run.run_id, "finished")
    return Report(run.run_id, "finished", outcome=train(task.config, run))


def _forget_other_rows(run: RunDirectory, config: RunConfig) -> None:
    """Drop the rows after the checkpoint where the instruments have changed since: they are made anew, as asked."""
    if run.file("metrics.jsonl").exists() and run.file("config.json").exists() and run.config().probes != config.probes:
        checkpoint = run.checkpoint()
        run.drop_rows(checkpoint["step"] if checkpoint else 0)


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
    _forget_other_rows(run, task.config)
    origin = provenance(f"{device.type}: {name}", task.command) | images_of(task.config)
    if device.type == "cuda":
        origin["gpu"] = os.environ.get("CUDA_VISIBLE_DEVICES", str(device.index or 0))
    run.write_config(task.config, origin)

    distributed.agreed(True)

    def mirrors() -> list[Sink]:
        wandb = [] if task.wandb is None else [WandbSink(task.config, run, task.wandb)]
        return [*wandb, *extra_sinks()]

    return train(task.config, run, mirrors)
