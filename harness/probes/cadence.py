"""When instruments fire: a pure function of the step, with bursts of dense readings after a jump of the dead share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cadence:
    """Steps 0, 1, 2, 4, 8, ... below `every`, then every `every`-th step, and bursts.

    every: steps between two readings, >= 1.
    early: whether the first `every` steps are read at the powers of two as well, where most of a death happens.
    burst_jump: a rise of some layer's dead share since the reading before, in (0, 1], that starts a burst, unless one
        goes on; None: never.
    burst_steps: length of a burst, in steps that are all read, >= 1.
    Raises ValueError for a value out of its range.
    """

    every: int = 50
    early: bool = True
    burst_jump: float | None = 0.2
    burst_steps: int = 20

    def __post_init__(self) -> None:
        for name in ("every", "burst_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number >= 1")
        if self.burst_jump is not None and not 0 < self.burst_jump <= 1:
            raise ValueError(f"burst_jump is {self.burst_jump}; expected a share in (0, 1], or None")

    def due(self, step: int) -> bool:
        """Whether `step` is read, bursts apart."""
        return step % self.every == 0 or (self.early and step < self.every and step & (step - 1) == 0)

    def burst_end(self, step: int, rise: float) -> int:
        """The last step of the burst that a reading at `step` starts, 0 for none.

        rise: the largest rise of a layer's dead share since the reading before, in [-1, 1].
        """
        return step + self.burst_steps if self.burst_jump is not None and rise >= self.burst_jump else 0
