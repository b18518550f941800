"""What is looked at while a run trains: checks for its outcome, and the rows of readings."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import distributed
from harness.data.dataset import Batches, Dataset
from harness.data.part import Part
from harness.outcome import SCREEN
from harness.probes.definitions import UnitReading
from harness.probes.passes import images_together, undisturbed
from harness.probes.prepool import BATCH_READINGS, PrePool
from harness.sinks.sink import Histogram, Sink
from harness.training.trainer import Trainer


class Watch:
    """Checks for the outcome and rows of readings. Brings everything it needs to the host in one transfer a step."""

    def __init__(self, trainer: Trainer, data: Dataset, batches: Batches, sinks: Sequence[Sink]) -> None:
        self.trainer, self.data, self.batches, self.sinks = trainer, data, batches, sinks
        self.parameters = list(trainer.model.parameters())
        self.probe_images = data.probe_set()
        self.prepool = PrePool(
            trainer.model.pool,  # type: ignore[arg-type]
            trainer.config.probes.dormant_below,
            distributed.gather,
        )
        self.histogram = any(sink.wants_histogram for sink in sinks)
        self.seconds = {"check": 0.0, "probe": 0.0}
        self.known: UnitReading | None = None  # what a check at this step has read of the whole probe set
        self.row: dict[str, Any] = {}  # of a step that is not over: its update is still to be read
        self.histogram_of_row: Histogram | None = None
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Watch:
        self.stack.enter_context(self.prepool)
        if self.trainer.probe is not None:
            self.stack.enter_context(self.trainer.probe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)

    def check_is_due(self, step: int) -> bool:
        """Whether the outcome is checked at this step."""
        return step % self.trainer.config.train.check_every == 0

    def row_is_due(self, step: int) -> bool:
        """Whether this step gives a row."""
        return step % self.trainer.config.probes.every == 0

    def before(self, step: int) -> bool:
        """Prepare for the forward pass of `step`; True when it will be read."""
        self.known = None
        layers = self.trainer.probe is not None and self.trainer.probe.step(step)
        if self.check_is_due(step) or self.row_is_due(step):
            self.prepool.arm(self.histogram and self.row_is_due(step))
            return True
        return layers

    def ended(self, logits: Tensor, labels: Tensor) -> bool:
        """Look at the step after its forward and backward pass; True when the run is over."""
        trainer, step = self.trainer, self.trainer.step
        check, row = self.check_is_due(step), self.row_is_due(step)
        if not (check or row):
            return False
        hits = (logits.detach().argmax(dim=1) == labels).double().mean()
        signs = torch.stack([trainer.losses[step % len(trainer.losses)].double(), hits, trainer.errors.double().mean()])
        state = torch.stack([largest_norm(self.parameters), *trainer.losses.double()])
        values = torch.cat([self.prepool.pending, distributed.mean(torch.cat([signs, state]))]).tolist()
        batch = self.prepool.take(values[: len(BATCH_READINGS)])
        loss, accuracy, error, parameter, *losses = values[len(BATCH_READINGS) :]
        ended = check and self.check(parameter, losses, batch["prepool/inert_share_batch"])
        if check:
            trainer.end_first_phase(error)
        if row or ended:
            readings = {"train/loss": loss, "train/accuracy": accuracy, **self.rates(), **batch}
            self.read(readings | self.batches.readings(), ended)
        if ended:
            self.updated()
        return ended

    def check(self, parameter: float, losses: list[float], inert_share: float) -> bool:
        """Feed the detector; True when the run is over."""
        started = time.perf_counter()
        trainer, detector = self.trainer, self.trainer.detector
        step, ring = trainer.step, len(losses)
        for past in range(max(0, step - ring + 1), step + 1):
            if not math.isfinite(losses[past % ring]):
                detector.see_divergence(past)
                return True
        if not math.isfinite(parameter):
            detector.see_divergence(step)
            return True
        dead = inert = False
        if inert_share >= SCREEN:
            with trainer.autocast():
                reading = self.prepool.read_until_alive(
                    trainer.model, self.probe_images, trainer.config.data.batch_size
                )
            self.known = reading
            dead, inert = distributed.agreed(
                (False, False) if reading is None else (bool(reading.dead.all()), bool(reading.inert.all()))
            )
        detector.see(step, dead=dead, inert=inert)
        self.seconds["check"] += time.perf_counter() - started
        return detector.happened and trainer.config.train.stop_at_death

    def end(self) -> None:
        """The last check and row, after the last update, where no training batch is left to read."""
        trainer = self.trainer
        self.known = None
        ring = len(trainer.losses)
        state = torch.stack([largest_norm(self.parameters), *trainer.losses.double()])
        parameter, *losses = distributed.mean(state).tolist()
        losses[trainer.step % ring] = 0.0  # the ring's oldest loss; this step has none
        self.check(parameter, losses, inert_share=1.0)
        self.read(self.rates(), last=True)
        self.updated()

    def rates(self) -> dict[str, float]:
        """The coming update's learning rate, the sum of those before, and when a two-phase warm-up ended."""
        rates = {"optim/lr": self.trainer.lr, "optim/cumulative_lr": self.trainer.cumulative_lr}
        if self.trainer.switch_step is not None:
            rates["optim/switch_step"] = self.trainer.switch_step
        return rates

    def read(self, row: dict[str, Any], last: bool) -> None:
        """Begin the step's row, with the probe set and the held-out images where they are due."""
        if not self.sinks:
            return
        started = time.perf_counter()
        trainer, every = self.trainer, self.trainer.config.probes.probe_set_every
        if last or (trainer.step > 0 and trainer.step % every == 0):
            row |= self.read_sets("")
            if trainer.average is not None:
                with trainer.averaged():
                    row |= self.read_sets("_averaged")
        self.histogram_of_row = self.prepool.histogram() if self.histogram and "train/loss" in row else None
        self.row = row | {"step": trainer.step}
        self.seconds["probe"] += time.perf_counter() - started

    def updated(self) -> None:
        """Give the sinks the rows of the step that is over: what was read before its update, and by it."""
        probe = self.trainer.probe
        rows: dict[int, dict[str, Any]] = {}
        for row in [*([] if probe is None else probe.take()), self.row]:
            if row:
                rows.setdefault(row["step"], {}).update(row)
        clock = {"elapsed": self.trainer.seconds, **self.seconds}
        if probe is not None:
            clock["probe"] += probe.seconds
        for step, row in sorted(rows.items()):
            content = {name: value for name, value in row.items() if name not in ("step", "time/probe")}
            content |= {f"time/{name}": value for name, value in clock.items()}
            for sink in self.sinks:
                sink.row(step, content, self.histogram_of_row)
        self.row, self.histogram_of_row = {}, None

    def read_sets(self, suffix: str) -> dict[str, float]:
        """Readings of the probe set and the held-out images, their names ended by which parameters were read."""
        model, size = self.trainer.model, self.trainer.config.data.batch_size
        known = None if suffix else self.known
        with self.trainer.autocast():
            row = self.prepool.read_set(model, self.probe_images, size, known)
            row |= held_out_reading(model, self.data.held_out, images_together(self.probe_images))
            if self.trainer.probe is not None and not suffix:
                self.trainer.probe.read_set(self.probe_images, batch_size=size, step=self.trainer.step)
        return {name + suffix: value for name, value in row.items()}


@torch.no_grad()
def largest_norm(parameters: Sequence[Tensor]) -> Tensor:
    """The largest Euclidean norm of a parameter, a double on the device: not finite if and only if one of them is not.

    Squares of float32 numbers do not overflow in doubles.
    """
    return torch.stack(torch._foreach_norm(list(parameters), 2, torch.float64)).max()


def held_out_reading(model: nn.Module, part: Part, batch_size: int) -> dict[str, float]:
    """Mean loss and accuracy on held-out images, with eval-mode batch-norm."""
    loss = torch.zeros((), dtype=torch.float64, device=part.labels.device)
    hits, count = torch.zeros_like(loss), 0  # a folder's images that cannot be read are left out
    with undisturbed(model, training=False):
        for images, labels in part.in_order(batch_size):
            logits = model(images)
            loss += F.cross_entropy(logits, labels, reduction="sum").double()
            hits += (logits.argmax(dim=1) == labels).sum()
            count += len(labels)
    mean_loss, accuracy = (torch.stack([loss, hits]) / count).tolist()
    return {"val/loss": mean_loss, "val/accuracy": accuracy}
