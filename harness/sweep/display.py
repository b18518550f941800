"""How a sweep shows its progress: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from harness.plain import shown
from harness.sweep.work import Report

PLAIN_INTERVAL = 10.0
"""Seconds between two plain lines."""


class SweepDisplay:
    """Counts of runs done, running, by outcome and failed, and the time left.

    The time left is the time so far, scaled by runs; it leaves out runs that were found finished.
    """

    def __init__(self, total: int, found: int, labels: Mapping[str, str], console: Console) -> None:
        self.total, self.found, self.labels, self.console = total, found, labels, console
        self.running = 0
        self.done: dict[str, Report] = {}
        self._start = time.monotonic()
        self._last_line = self._start
        self._live = Live(self, console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self.say(self.text())  # what stays on the terminal

    def started(self, running: int) -> None:
        """Take the number of runs that are being worked on now."""
        self.running = running
        if self._live is None and time.monotonic() - self._last_line > PLAIN_INTERVAL:
            self._line()

    def ended(self, report: Report) -> None:
        """Take the report of a run."""
        for note in report.notes:
            self.say(f"{self.labels.get(report.run_id, report.run_id)}: {note}")
        if not report.ended:
            return
        self.done[report.run_id] = report
        if report.state == "failed":
            self.say(f"failed: {report.run_id} {self.labels.get(report.run_id, '')}: {report.message}")
        if self._live is None and len(self.done) == self.total - self.found:
            self._line()

    def say(self, text: str) -> None:
        """Show a line of text."""
        self.console.print(shown(text), soft_wrap=True)

    def _line(self) -> None:
        self._last_line = time.monotonic()
        self.say(self.text())

    @property
    def failed(self) -> list[Report]:
        """Reports of the runs that failed."""
        return [report for report in self.done.values() if report.state == "failed"]

    def text(self) -> str:
        """The counts in one line."""
        outcomes = Counter(report.outcome.outcome for report in self.done.values() if report.outcome)
        parts = [f"{len(self.done) + self.found}/{self.total} runs done"]
        if self.found:
            parts[0] += f" ({self.found} before)"
        left = self.total - self.found - len(self.done)
        parts += [f"{min(self.running, left)} running"]  # of those that were running some have ended since
        parts += [f"{count} {outcome}" for outcome, count in sorted(outcomes.items())]
        parts += [f"{len(self.failed)} failed"]
        if left and self.done:
            seconds = (time.monotonic() - self._start) / len(self.done) * left
            parts.append(f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left")
        return ", ".join(parts)

    def __rich__(self) -> Table:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(ProgressBar(self.total, self.found + len(self.done), width=30), self.text())
        return grid
