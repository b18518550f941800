"""What an executor is, and how one follows the runs that it has given away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from harness.sweep.work import Report, Task

BUSY_PAUSE = 1.0
"""Seconds before a run that another process works on is asked for again."""


class Display(Protocol):
    """Shows how a sweep goes."""

    def started(self, running: int) -> None:
        """Take the number of runs that are being worked on now."""

    def ended(self, report: Report) -> None:
        """Take the report of a run."""

    def say(self, text: str) -> None:
        """Show a line."""


class Executor(Protocol):
    """Does the runs of a sweep somewhere.

    here: whether on this machine, which then must have the memory and the GPUs that they ask for.
    """

    here: ClassVar[bool]

    def run(self, tasks: Sequence[Task], display: Display) -> None:
        """Do every task, of which there is at least one, and tell `display` how each went.

        Raises InputError, before any is begun, where it cannot be done as asked; KeyboardInterrupt when stopped.
        """
