"""Died, collapsed, diverged or survived, and how each is decided. Words: experiments/QUESTION.md, "Words".

The checks belong to training. A cheap reading of the training batch comes first; the probe set is read only when that
reading says that at least `SCREEN` of the pre-pool units carry nothing. Step s means: after s updates of the weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

CONSECUTIVE = 3
"""Checks in a row at which every pre-pool unit must be dead."""
SPAN = 20
"""Steps that those checks must span at least (momentum coasts)."""
SCREEN = 0.9
"""Share of units that must be inert (a dead unit is) in the training batch before the probe set is read."""

Event = Literal["died", "collapsed"]
OutcomeName = Literal["died", "collapsed", "diverged", "survived"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    outcome: died, diverged or survived; or collapsed, only for a network whose event is collapse because exact zeros
        are all but impossible in it.
    step: died, collapsed: the first of the checks that decided it; diverged: the first non-finite step; survived:
        the step at which it is right-censored.
    last_live_step: the last check before that at which nothing had happened, None if there was none. The event lies in
        the interval (last_live_step, step].
    collapsed_step, collapsed_last_live_step: the same for collapse (inert in place of dead), recorded for every net.
    revival_step: the first check after a decided death at which some unit was active again, or None.
    event: the event that this network can suffer; a run stops at it.
    last_step: updates done.
    reason: one sentence.
    """

    outcome: OutcomeName
    step: int
    last_live_step: int | None
    collapsed_step: int | None
    collapsed_last_live_step: int | None
    revival_step: int | None
    event: Event
    last_step: int
    reason: str

    def noting(self, note: str) -> Outcome:
        """The same outcome with a further reason."""
        return replace(self, reason=f"{self.reason}; {note}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as stored in outcome.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Outcome:
        """The outcome whose `as_dict` this is. Raises ValueError or TypeError for anything else."""
        outcome = cls(**plain)
        allowed = {"outcome": get_args(OutcomeName), "event": get_args(Event)}
        for name, value in plain.items():
            if name in allowed:
                proper = value in allowed[name]
            elif name == "reason":
                proper = isinstance(value, str)
            else:
                whole = isinstance(value, int) and not isinstance(value, bool)
                proper = whole or (value is None and name not in ("step", "last_step"))
            if not proper:
                raise ValueError(f"{name} is {value!r}")
        return outcome


@dataclass
class Streak:
    """Decides one event from its checks: it happened when `CONSECUTIVE` checks in a row that span `SPAN` steps say so.

    `step` is the first check of that row and `last_live_step` the check before it, which censors it to an interval.
    """

    last_live_step: int | None = None
    first: int | None = None
    count: int = 0
    step: int | None = None
    revival_step: int | None = None

    def see(self, step: int, gone: bool) -> None:
        """Take the check at `step`: `gone` is whether every unit was dead (inert)."""
        if self.step is not None:
            if not gone and self.revival_step is None:
                self.revival_step = step
            return
        if not gone:
            self.last_live_step, self.first, self.count = step, None, 0
            return
        if self.first is None:
            self.first = step
        self.count += 1
        if self.count >= CONSECUTIVE and step - self.first >= SPAN:
            self.step = self.first


@dataclass
class Detector:
    """The death detector: takes checks, gives the outcome. Its whole state is plain values, kept in checkpoints."""

    event: Event
    death: Streak = field(default_factory=Streak)
    collapse: Streak = field(default_factory=Streak)
    diverged_step: int | None = None
    finite_step: int | None = None

    def see(self, step: int, *, dead: bool, inert: bool) -> None:
        """Take a check of a finite network: whether every pre-pool unit was dead, and whether every one was inert."""
        self.finite_step = step
        self.death.see(step, dead)
        self.collapse.see(step, inert)

    def see_divergence(self, step: int) -> None:
        """Take the first step at which the loss or a parameter was no longer finite."""
        if self.diverged_step is None:
            self.diverged_step = step

    @property
    def happened(self) -> bool:
        """Whether this network's event has happened."""
        return (self.death if self.event == "died" else self.collapse).step is not None

    def outcome(self, last_step: int) -> Outcome:
        """The outcome of a run that did `last_step` updates."""
        collapse = self.collapse
        name: OutcomeName
        streak = collapse if self.event == "collapsed" and self.death.step is None else self.death
        if streak.step is not None:  # an event that was decided before a divergence keeps the outcome
            name, step, live = ("died" if streak is self.death else "collapsed"), streak.step, streak.last_live_step
            what = "dead" if name == "died" else "inert"
            reason = f"all pre-pool units {what} on the probe set from step {step} on"
        elif self.diverged_step is not None:
            name, step, live = "diverged", self.diverged_step, self.finite_step
            reason = f"the loss or a parameter was not finite at step {step}"
        elif streak.count:
            name, live = "survived", streak.last_live_step
            step = live or 0
            reason = f"too few checks since the first dead one at step {streak.first}; censored at the last live one"
        else:
            name, step, live = "survived", last_step, last_step
            reason = f"alive at step {last_step}"
        return Outcome(
            outcome=name,
            step=step,
            last_live_step=live,
            collapsed_step=collapse.step,
            collapsed_last_live_step=None if collapse.step is None else collapse.last_live_step,
            revival_step=self.death.revival_step,
            event=self.event,
            last_step=last_step,
            reason=reason,
        )

    def state(self) -> dict[str, Any]:
        """Plain values from which `restore` makes an equal detector."""
        return asdict(self)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Detector:
        """The detector whose `state` this is."""
        plain = {key: value for key, value in state.items() if key not in ("death", "collapse")}
        return cls(**plain, death=Streak(**state["death"]), collapse=Streak(**state["collapse"]))
