"""The training of one run: one visible loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from harness import distributed
from harness.config import RunConfig
from harness.data.dataset import load_dataset
from harness.devices import pick_device
from harness.outcome import Outcome
from harness.sinks.sink import Sink
from harness.sinks.store import StoreSink
from harness.store import Damaged, RunDirectory
from harness.training.trainer import Trainer
from harness.training.watch import Watch

TIMELINES: tuple[Literal["batch", "probe"], ...] = ("batch", "probe")


def train(config: RunConfig, run: RunDirectory, mirrors: Callable[[], Sequence[Sink]] = lambda: ()) -> Outcome:
    """Train a run to its outcome, from its checkpoint if it has one, into its locked run directory.

    `mirrors` makes further sinks once the run is ready. Step s of a row means: after s updates of the weights. Under
    torchrun every rank calls this; each trains on its part of the batch, and only rank 0 writes.
    Raises Damaged for a checkpoint, or rows after it, that cannot be used.
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
        batches = data.batches(config.seed, trainer.step, distributed.rank(), distributed.world_size())
        with Watch(trainer, data, batches, sinks) as watch, batches:
            resumed_at = trainer.step
            while trainer.step < trainer.length.steps:
                if trainer.step % config.compute.checkpoint_every == 0 and trainer.step > resumed_at:
                    save(run, trainer)
                read = watch.before(trainer.step)
                images, labels = next(batches)
                logits = trainer.forward_backward(images, labels, read)
                if watch.ended(logits, labels):
                    break
                trainer.update()
                watch.updated()
            else:
                watch.end()
        save(run, trainer)
        if trainer.probe is not None and writes:
            run.write_timelines({name: trainer.probe.timeline(name).to_arrays() for name in TIMELINES})
        outcome = trainer.detector.outcome(trainer.step)
        if config.optim.warmup.name == "two_phase" and trainer.switch_step is None:
            outcome = outcome.noting("the two-phase warm-up never ended: its threshold was not reached")
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


def save(run: RunDirectory, trainer: Trainer) -> None:
    """Write the checkpoint, once for all ranks."""
    state = trainer.state()
    if distributed.rank() == 0:
        run.write_checkpoint(state)
