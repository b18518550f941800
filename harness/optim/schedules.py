"""Learning rates as pure functions of the step."""

from __future__ import annotations

from harness.config import OptimConfig


def learning_rate(optim: OptimConfig, step: int) -> float:
    """The learning rate of update number `step`, counted from 0.

    The warm-up replaces the schedule's first steps and does not shift the rest. The exponential schedule is the
    paper's staircase, lr * rate ** floor(step / every) (section 4 of 1602.07261).
    """
    if optim.warmup.steps is not None and optim.warmup.lr is not None and step < optim.warmup.steps:
        return optim.warmup.lr
    schedule = optim.schedule
    if schedule.rate is not None and schedule.every is not None:
        return optim.lr * schedule.rate ** (step // schedule.every)
    return optim.lr
