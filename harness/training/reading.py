"""What a step that is read says of the run, brought to the host in one transfer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness import distributed
from harness.probes.prepool import BATCH_READINGS, PrePool
from harness.training.trainer import Trainer

Row = dict[str, float | int]


@dataclass(frozen=True)
class StepReading:
    """One step, read after its backward pass and before its update; of a data-parallel run that of all ranks.

    losses: by step, of the steps up to this one, as many as lie between two checks.
    largest_norm: the largest Euclidean norm of a parameter.
    error: training error, the mean over the window of a two-phase warm-up.
    train: `train/loss` and `train/accuracy`; prepool: the pre-pool readings. Both are of the training batch by their
        names in a row, and empty after the last update, where no batch is left.
    """

    step: int
    losses: dict[int, float]
    largest_norm: float
    error: float
    train: Row = field(default_factory=dict)
    prepool: Row = field(default_factory=dict)

    @property
    def diverged_step(self) -> int | None:
        """The first of these steps at which the loss, or now a parameter, is not finite; None if all are."""
        for step, loss in self.losses.items():
            if not math.isfinite(loss):
                return step
        return None if math.isfinite(self.largest_norm) else self.step


def read_step(trainer: Trainer, prepool: PrePool, logits: Tensor, labels: Tensor) -> StepReading:
    """Read a step for whose forward pass `prepool` was armed: its logits (N, classes) and labels (N,) of this rank."""
    hits = (logits.detach().argmax(dim=1) == labels).double().mean()
    signs = distributed.mean(torch.cat([hits[None], _signs(trainer)]))
    values = torch.cat([prepool.pending, signs]).tolist()
    batch, (accuracy, norm, error, *ring) = values[: len(BATCH_READINGS)], values[len(BATCH_READINGS) :]
    losses = _by_step(ring, trainer.step + 1)
    train: Row = {"train/loss": losses[trainer.step], "train/accuracy": accuracy}
    return StepReading(trainer.step, losses, norm, error, train, prepool.take(batch))


def read_end(trainer: Trainer) -> StepReading:
    """Read what the last update left; no loss is known of it."""
    norm, error, *ring = distributed.mean(_signs(trainer)).tolist()
    return StepReading(trainer.step, _by_step(ring, trainer.step), norm, error)


@torch.no_grad()
def largest_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The largest Euclidean norm of a parameter, a double on the device: not finite if and only if one of them is not.

    Squares of float32 numbers do not overflow in doubles.
    """
    return torch.stack(torch._foreach_norm(list(parameters), 2, torch.float64)).max()


def _signs(trainer: Trainer) -> Tensor:
    """Largest norm, training error and the ring of losses, doubles on the device."""
    norm, error = largest_norm(trainer.model.parameters()), trainer.errors.double().mean()
    return torch.cat([torch.stack([norm, error]), trainer.losses.double()])


def _by_step(ring: Sequence[float], end: int) -> dict[int, float]:
    """The losses of the steps below `end` that are in the ring, the oldest first."""
    return {step: ring[step % len(ring)] for step in range(max(0, end - len(ring)), end)}
