"""The training of one run: one visible loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from harness import distributed
from harness.config import RunConfig
from harness.data.dataset import load_dataset
from harness.outcome import Outcome
from harness.sinks import Sink, StoreSink
from harness.store import RunDirectory
from harness.trainee import Trainee, pick_device
from harness.watch import Watch

TIMELINES: tuple[Literal["batch", "probe"], ...] = ("batch", "probe")


def train(config: RunConfig, run: RunDirectory, mirrors: Callable[[], Sequence[Sink]] = lambda: ()) -> Outcome:
    """Train a run to its outcome, from its checkpoint if it has one, into its claimed run directory.

    `mirrors` makes further sinks once the run is ready. Step s of a row means: after s updates of the weights. Under
    torchrun every rank calls this; each trains on its part of the batch, and only rank 0 writes.
    Raises Damaged for a checkpoint that cannot be used.
    """
    torch.set_num_threads(config.compute.threads)
    device = pick_device(config.compute.device)
    data = load_dataset(config.data, device)
    trainee = Trainee.new(config, data, device)
    checkpoint = run.checkpoint()
    if checkpoint is not None:
        trainee.restore(checkpoint)
    writes = distributed.rank() == 0
    sinks: list[Sink] = [StoreSink(run), *mirrors()] if writes else []
    outcome = None
    try:
        batches = data.batches(config.seed, trainee.step, distributed.rank(), distributed.world_size())
        with Watch(trainee, data, batches, sinks) as watch, batches:
            resumed_at = trainee.step
            while trainee.step < trainee.length.steps:
                if trainee.step % config.compute.checkpoint_every == 0 and trainee.step > resumed_at:
                    save(run, trainee)
                read = watch.before(trainee.step)
                images, labels = next(batches)
                logits = trainee.forward_backward(images, labels, read)
                if watch.ended(logits, labels):
                    break
                trainee.update()
                watch.updated()
            else:
                watch.end()
        save(run, trainee)
        if trainee.probe is not None and writes:
            run.write_timelines({name: trainee.probe.timeline(name).to_arrays() for name in TIMELINES})
        outcome = trainee.detector.outcome(trainee.step)
        if config.optim.warmup.name == "two_phase" and trainee.switch_step is None:
            outcome = outcome.noting("the two-phase warm-up never ended: its threshold was not reached")
    finally:
        for sink in reversed(sinks):  # the outcome file comes last
            sink.close(outcome)
    return outcome


def save(run: RunDirectory, trainee: Trainee) -> None:
    """Write the checkpoint, once for all ranks."""
    state = trainee.state()
    if distributed.rank() == 0:
        run.write_checkpoint(state)
