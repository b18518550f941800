"""The training of one run: one visible loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from harness import distributed, stop
from harness.config import RunConfig
from harness.data.dataset import Dataset, load_dataset
from harness.devices import pick_device
from harness.outcome import Outcome
from harness.probes.prepool import PrePool
from harness.sinks.sink import Sink
from harness.sinks.store import StoreSink
from harness.store import Damaged, RunDirectory
from harness.training.curvature import CurvatureReader
from harness.training.monitor import Monitor
from harness.training.reading import read_end, read_step
from harness.training.recorder import Recorder
from harness.training.trainer import Trainer

TIMELINES: tuple[Literal["batch", "probe"], ...] = ("batch", "probe")


def train(config: RunConfig, run: RunDirectory, mirrors: Callable[[], Sequence[Sink]] = lambda: ()) -> Outcome:
    """Train a run to its outcome, from its checkpoint if it has one, into its locked run directory.

    `mirrors` makes further sinks once the run is ready. Step s of a row means: after s updates of the weights. Under
    torchrun every rank calls this; each trains on its part of the batch, and only rank 0 writes.
    Raises Damaged for a checkpoint, or rows after it, that cannot be used; Stopped when asked to stop (`harness.stop`).
    """
    torch.set_num_threads(config.compute.threads)
    device = pick_device(config.compute.device)
    data = load_dataset(config.data, device)
    trainer = Trainer.new(config, data, device)
    checkpoint = run.checkpoint()
    if checkpoint is not None:
        restore(run, trainer, checkpoint)
    writes = distributed.rank() == 0
    sinks: list[Sink] = [StoreSink(run, trainer.step), *mirrors()] if writes else []
    outcome = None
    try:
        train_steps(trainer, data, run, sinks)
        trainer.finish()
        save(run, trainer)
        if trainer.probe is not None and writes:
            run.write_timelines({name: trainer.probe.timeline(name).to_arrays() for name in TIMELINES})
        outcome = trainer.outcome()
    finally:
        for sink in reversed(sinks):  # the outcome file comes last
            sink.close(outcome)
    return outcome


def restore(run: RunDirectory, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Take over a checkpoint. Raises Damaged where it is not one of this network and optimizer."""
    try:
        trainer.restore(checkpoint)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise Damaged(run.file("checkpoint.pt"), f"not of this run's network and optimizer: {why}") from None


def train_steps(trainer: Trainer, data: Dataset, run: RunDirectory, sinks: Sequence[Sink]) -> None:
    """Take the steps that are left, to the last one or to the event that ends the run."""
    config, resumed_at = trainer.config, trainer.step
    batches = data.batches(config.seed, trainer.batches_taken, distributed.rank(), distributed.world_size())
    prepool = PrePool(trainer.model.pool, config.probes.dormant_below, distributed.gather)  # type: ignore[arg-type]
    probe_set = data.probe_set()
    monitor = Monitor(trainer, prepool, probe_set)
    curvature = CurvatureReader(trainer, data.probe_batch()) if config.probes.preset == "curvature" else None
    recorder = Recorder(trainer, monitor, prepool, curvature, probe_set, data.held_out, batches, sinks)
    with batches:
        trainer.begin(batches)
        with prepool, trainer.probe or contextlib.nullcontext():
            while trainer.step < trainer.length.steps:
                step = trainer.step
                if step % config.compute.checkpoint_every == 0 and step > resumed_at:
                    save(run, trainer)
                if stop.asked() and distributed.world_size() == 1:  # ranks would stop at different steps
                    save(run, trainer)
                    raise stop.Stopped
                check, row = monitor.due(step), recorder.due(step)
                if check or row:
                    prepool.arm(histogram=row and recorder.wants_histogram)
                images, labels = next(batches)
                logits = trainer.forward_backward(images, labels, read=check or row)
                if check or row:
                    reading = read_step(trainer, prepool, logits, labels)
                    if check:
                        monitor.check(reading)
                        trainer.end_first_phase(reading.error)
                    if row or monitor.ended:
                        recorder.begin_row(reading, last=monitor.ended)
                if monitor.ended:
                    break
                trainer.update()
                recorder.write_rows()
            else:
                reading = read_end(trainer)
                monitor.check(reading)
                recorder.begin_row(reading, last=True)
            recorder.write_rows()


def save(run: RunDirectory, trainer: Trainer) -> None:
    """Write the checkpoint, once for all ranks."""
    state = trainer.state()
    if distributed.rank() == 0:
        run.write_checkpoint(state)
