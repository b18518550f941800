"""The sink that is the truth: rows on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.outcome import Outcome
from harness.sinks.sink import Histogram
from harness.store import Damaged, RunDirectory


class StoreSink:
    """Appends rows to the run directory, those apart which a run that continues has written before.

    A run that continues from `from_step` makes the rows from there on once more: they must be those that are there.
    """

    wants_histogram = False

    def __init__(self, run: RunDirectory, from_step: int = 0) -> None:
        self._run = run
        self._awaited = [row for row in run.reopen() if row["step"] >= from_step]

    def row(self, step: int, metrics: Mapping[str, Any], histogram: Histogram | None) -> None:
        """Append the row; it is on disk when this returns. Raises Damaged where the rows there have another one."""
        row = {"step": step, **metrics}
        if not self._awaited:
            self._run.append(row)
        elif (there := self._awaited.pop(0)).keys() != row.keys() or there["step"] != step:
            raise Damaged(
                self._run.file("metrics.jsonl"), f"a row of step {there['step']} that is not the one due there"
            )

    def close(self, outcome: Outcome | None) -> None:
        """Seal the rows and write the outcome. Raises Damaged where there are rows that the run did not make again."""
        if outcome is not None:
            if self._awaited:
                raise Damaged(
                    self._run.file("metrics.jsonl"), f"a row of step {self._awaited[0]['step']}, which never came"
                )
            self._run.finish(outcome)
