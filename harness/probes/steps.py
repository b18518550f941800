"""Which step of a training goes on, and whether it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.probes.cadence import Cadence


class Steps:
    """Counts the steps of a training, unless their numbers are given, and says which of them are read.

    A step is a forward pass. Where it lasts `until_update`, all passes up to an update are one step; where the numbers
    are `given`, all up to the next number.

    number: of the step that goes on, -1 before the first.
    fires: whether it is read, until it is closed.
    """

    def __init__(self, cadence: Cadence, until_update: bool) -> None:
        self._cadence, self._until_update = cadence, until_update
        self._dead_share: dict[str, float] = {}
        self._burst_end = -1
        self._updated = True
        self.number, self.fires, self.given = -1, False, False

    @property
    def open(self) -> bool:
        """Whether what comes now is read: the step fires, and its update is not made."""
        return self.fires and not self._updated

    @property
    def over(self) -> bool:
        """Whether nothing more can come of the step: its update is made, or it has none."""
        return self._updated or not (self._until_update or self.given)

    @property
    def next_pass_begins(self) -> bool:
        """Whether the next forward pass begins a step."""
        return not self.given and (self._updated or not self._until_update)

    def begin(self, number: int) -> None:
        """Begin a step."""
        self.number, self._updated = number, False
        self.fires = self._cadence.due(number) or number <= self._burst_end

    def update(self) -> None:
        """Take the update of the step that goes on."""
        self._updated = True

    def close(self) -> None:
        """Let nothing more of the step be read."""
        self.fires = False

    def see_dead(self, shares: Mapping[str, float]) -> None:
        """Take the share of dead units of each layer; a rise since the reading before may start a burst."""
        rises = [share - self._dead_share[layer] for layer, share in shares.items() if layer in self._dead_share]
        self._dead_share |= shares
        if self.number > self._burst_end:  # a burst does not prolong itself: noise would never let it end
            self._burst_end = self._cadence.burst_end(self.number, max(rises, default=-1.0))

    def state(self) -> dict[str, Any]:
        """Plain values from which `restore` goes on."""
        return {"step": self.number, "dense_until": self._burst_end, "dead_share": dict(self._dead_share)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the state of a checkpoint."""
        self.number, self._burst_end = state["step"], state["dense_until"]
        self._dead_share = dict(state["dead_share"])
