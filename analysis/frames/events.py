"""Which outcomes and states a run can have, as the analysis counts them."""

from __future__ import annotations

from typing import get_args

from harness.outcome import Event

EVENTS: tuple[str, ...] = get_args(Event)
"""Outcomes that are the death of a network: died, or collapsed where exact zeros are all but impossible."""
UNFINISHED = ("failed", "running", "pending")
"""States of a run that has no outcome and counts for nothing."""
