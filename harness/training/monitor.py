"""The checks of the outcome: whether the network died, collapsed or diverged."""

from __future__ import annotations

from torch import Tensor

from harness import distributed
from harness.outcome import SCREEN
from harness.probes.definitions import UnitReading
from harness.probes.prepool import PrePool
from harness.stopwatch import Stopwatch
from harness.training.reading import StepReading
from harness.training.trainer import Trainer


class Monitor:
    """Checks the outcome at its steps, which no instrument moves, and feeds the trainer's detector.

    stopwatch: the time spent on checks.
    """

    def __init__(self, trainer: Trainer, prepool: PrePool, probe_set: Tensor) -> None:
        self._trainer, self._prepool, self._probe_set = trainer, prepool, probe_set
        self._units: tuple[int, UnitReading | None] = -1, None
        self.stopwatch = Stopwatch()

    def due(self, step: int) -> bool:
        """Whether the outcome is checked at this step."""
        return step % self._trainer.config.train.check_every == 0

    @property
    def ended(self) -> bool:
        """Whether the run is over by the checks so far: it diverged, or its event happened and it stops at that."""
        detector = self._trainer.detector
        return detector.diverged_step is not None or (detector.happened and self._trainer.config.train.stop_at_death)

    def probe_set_units(self, step: int) -> UnitReading | None:
        """What the check at this step read of the whole probe set; None where it had no need to read all of it."""
        checked_at, units = self._units
        return units if checked_at == step else None

    def check(self, reading: StepReading) -> None:
        """Take a check. The probe set is read unless the training batch shows enough life."""
        with self.stopwatch.running():
            if reading.diverged_step is not None:
                self._trainer.detector.see_divergence(reading.diverged_step)
            else:
                self._check_units(reading)

    def _check_units(self, reading: StepReading) -> None:
        dead = inert = False
        if reading.prepool.get("prepool/inert_share_batch", 1.0) >= SCREEN:
            units = self._read_probe_set()
            self._units = reading.step, units
            dead, inert = distributed.agreed(
                (False, False) if units is None else (bool(units.dead.all()), bool(units.inert.all()))
            )
        self._trainer.detector.see(reading.step, dead=dead, inert=inert)

    def _read_probe_set(self) -> UnitReading | None:
        trainer = self._trainer
        with trainer.autocast():
            return self._prepool.read_until_alive(trainer.model, self._probe_set, trainer.config.data.batch_size)
