"""The rows of a run, from its readings to the sinks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.dataset import Batches
from harness.data.part import Part
from harness.probes.definitions import UnitReading
from harness.probes.passes import images_together, undisturbed
from harness.probes.prepool import PrePool
from harness.sinks.sink import Histogram, Sink
from harness.stopwatch import Stopwatch
from harness.training.curvature import CurvatureReader
from harness.training.monitor import Monitor
from harness.training.reading import Row, StepReading
from harness.training.trainer import Trainer


class Recorder:
    """Makes a row of a step's reading, and gives it to the sinks once the step's update is made, and read, too.

    wants_histogram: whether a sink takes the histogram of the pre-pool activations with a row.
    """

    def __init__(
        self,
        trainer: Trainer,
        monitor: Monitor,
        prepool: PrePool,
        curvature: CurvatureReader | None,
        probe_set: Tensor,
        held_out: Part,
        batches: Batches,
        sinks: Sequence[Sink],
    ) -> None:
        self._trainer, self._monitor, self._prepool, self._curvature = trainer, monitor, prepool, curvature
        self._probe_set, self._held_out, self._batches, self._sinks = probe_set, held_out, batches, sinks
        self.wants_histogram = any(sink.wants_histogram for sink in sinks)
        self._row: dict[str, Any] = {}  # of the step that goes on
        self._histogram: Histogram | None = None
        # the probe's own where there is one, so that its readings of the probe set count once
        self._stopwatch = Stopwatch() if trainer.probe is None else trainer.probe.stopwatch

    def due(self, step: int) -> bool:
        """Whether this step gives a row."""
        return step % self._trainer.config.probes.every == 0 or self._reads_curvature(step)

    def _reads_curvature(self, step: int) -> bool:
        return self._curvature is not None and self._curvature.due(step)

    def begin_row(self, reading: StepReading, last: bool) -> None:
        """Begin the row of a step, with the probe set and held-out images where they are due: always in the last."""
        if not self._sinks:
            return
        with self._stopwatch.running():
            step = reading.step
            self._row = {"step": step, **reading.train, **self._trainer.rates, **reading.prepool}
            if reading.prepool:
                self._row |= self._batches.readings()
                self._histogram = self._prepool.histogram() if self.wants_histogram else None
            if last or (step > 0 and step % self._trainer.config.probes.probe_set_every == 0):
                self._row |= self._read_sets(step)
            if self._curvature is not None and (last or self._curvature.due(step)):
                self._row |= self._curvature.read()

    def write_rows(self) -> None:
        """Give the sinks the rows of the step that is over: what was read before its update, and by it."""
        probe = self._trainer.probe
        rows: dict[int, dict[str, Any]] = {}
        for row in [*([] if probe is None else probe.take()), self._row]:
            if row:
                rows.setdefault(row["step"], {}).update(row)
        clock = {
            "elapsed": self._trainer.seconds,
            "check": self._monitor.stopwatch.seconds,
            "probe": self._stopwatch.seconds,
        }
        for step, row in sorted(rows.items()):
            content = {name: value for name, value in row.items() if name not in ("step", "time/probe")}
            content |= {f"time/{name}": value for name, value in clock.items()}
            for sink in self._sinks:
                sink.row(step, content, self._histogram)
        self._row, self._histogram = {}, None

    def _read_sets(self, step: int) -> Row:
        """Readings of the probe set, its layers among them, and of the held-out images."""
        trainer = self._trainer
        row = self._read_parameters(self._monitor.probe_set_units(step))
        if trainer.probe is not None:
            with trainer.autocast():
                trainer.probe.read_set(self._probe_set, batch_size=trainer.config.data.batch_size, step=step)
        if trainer.average is not None:
            with trainer.average.in_place():
                row |= {f"{name}_averaged": value for name, value in self._read_parameters().items()}
        return row

    def _read_parameters(self, known: UnitReading | None = None) -> Row:
        """The same of the model's present parameters; `known` is what a check has read of the probe set with them."""
        trainer = self._trainer
        with trainer.autocast():
            row = self._prepool.read_set(trainer.model, self._probe_set, trainer.config.data.batch_size, known)
            return row | held_out_reading(trainer.model, self._held_out, images_together(self._probe_set))


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
