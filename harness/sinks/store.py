"""The sink that is the truth: rows on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.outcome import Outcome
from harness.sinks.sink import Histogram
from harness.store import RunDirectory


class StoreSink:
    """Appends rows to the run directory, those apart which a run that continues has written before."""

    wants_histogram = False

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._last_step = run.reopen()

    def row(self, step: int, metrics: Mapping[str, Any], histogram: Histogram | None) -> None:
        """Append the row; it is on disk when this returns."""
        if step > self._last_step:
            self._run.append({"step": step, **metrics})

    def close(self, outcome: Outcome | None) -> None:
        """Seal the rows and write the outcome."""
        if outcome is not None:
            self._run.finish(outcome)
