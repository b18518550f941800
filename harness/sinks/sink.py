"""What takes a run's rows as they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from harness.outcome import Outcome

Histogram = tuple[list[float], list[float]]


class Sink(Protocol):
    """Takes a run's rows as they come, and its outcome."""

    wants_histogram: bool

    def row(self, step: int, metrics: Mapping[str, Any], histogram: Histogram | None) -> None:
        """Take one row, with counts and bin edges of the pre-pool activations if `wants_histogram`."""

    def close(self, outcome: Outcome | None) -> None:
        """Take the outcome, None if the run was interrupted or failed."""
