"""Learning rates as pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.config import OptimConfig, RunConfig, ScheduleConfig, WarmupConfig


@dataclass(frozen=True)
class Length:
    """A training's length: updates in all, and updates in an epoch."""

    steps: int
    steps_per_epoch: int

    @classmethod
    def of(cls, config: RunConfig, training_images: int) -> Length:
        """The length of a run on so many training images; the incomplete last batch of an epoch is left out."""
        steps_per_epoch = training_images // config.data.batch_size
        return cls(config.train.steps or (config.train.epochs or 0) * steps_per_epoch, steps_per_epoch)


def learning_rate(optim: OptimConfig, step: int, length: Length, switch_step: int | None = None) -> float:
    """The learning rate of update number `step`, counted from 0.

    `switch_step` is the step at which a two_phase warm-up ended, None while it has not. With `warmup.shift` the
    schedule starts when the warm-up ends; else the warm-up covers its first steps and shifts nothing.
    """
    warmup = optim.warmup
    end = warmup_end(warmup, switch_step)
    start = (end or 0) if warmup.shift else 0
    if end is None or step < end:
        assert warmup.lr is not None
        if warmup.name == "gradual":
            assert end is not None
            return warmup.lr + (optim.lr - warmup.lr) * step / end
        return warmup.lr
    return optim.lr * schedule_factor(optim.schedule, step - start, length, start)


def warmup_end(warmup: WarmupConfig, switch_step: int | None) -> int | None:
    """The first step after the warm-up; None for a two_phase one that has not ended."""
    if warmup.name == "two_phase":
        return switch_step
    return warmup.steps or 0


def schedule_factor(schedule: ScheduleConfig, step: int, length: Length, start: int = 0) -> float:
    """Factor on the learning rate `step` steps into a schedule that began at training step `start`, in [0, 1].

    exponential: rate ** floor(step / every), the staircase of 1602.07261, section 4. cosine: 1 to 0 at the last step.
    """
    if schedule.name == "exponential":
        assert schedule.rate is not None and schedule.every is not None
        stair = schedule.every * (length.steps_per_epoch if schedule.unit == "epochs" else 1)
        return float(schedule.rate ** (step // stair))
    if schedule.name == "cosine":
        return (1 + math.cos(math.pi * min(1.0, step / max(1, length.steps - start)))) / 2
    return 1.0


def planned_rates(config: RunConfig, training_images: int) -> tuple[list[float], str]:
    """The learning rate of every update of a run on so many training images, and the schedule in words.

    A two-phase warm-up is drawn as ending at the first check that could end it; when it will is not known beforehand.
    """
    optim = config.optim
    length = Length.of(config, training_images)
    words = f"{optim.name}, lr {optim.lr:g}, schedule {optim.schedule.name}"
    if optim.schedule.name == "exponential":
        words += f" (times {optim.schedule.rate:g} every {optim.schedule.every} {optim.schedule.unit})"
    switch_step = optim.warmup.window
    if optim.warmup.name != "none":
        words += f", warm-up {optim.warmup.name} from {optim.warmup.lr:g}"
        words += f" for {optim.warmup.steps} steps" if optim.warmup.steps else ""
    if optim.warmup.name == "two_phase":
        words += f", which ends when the training error falls below {optim.warmup.threshold:g}: drawn at its earliest"
    if optim.replicas > 1:
        words += (
            f"; {optim.replicas} asynchronous replicas, {(optim.replica_order or '').replace('_', ' ')}: gradients "
        )
        words += f"{optim.replicas - 1} updates late{' in the mean' if optim.replica_order == 'random' else ''}"
    words += f"; {length.steps_per_epoch} steps an epoch"
    return [learning_rate(optim, step, length, switch_step) for step in range(length.steps)], words
