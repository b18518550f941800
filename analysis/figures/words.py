"""Words that figures share: what death is called, what a caption says of it, and who is not counted."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.frames.events import EVENTS, UNFINISHED
from harness.outcome import CONSECUTIVE, SPAN

STEP = "step (updates of the weights)"
"""The label of an axis of steps."""


def event_words(runs: pd.DataFrame) -> str:
    """What death is called in these runs: died, collapsed, or died or collapsed."""
    found = [event for event in EVENTS if (runs["outcome"] == event).any()]
    return " or ".join(found) or EVENTS[0]


def explain_event(runs: pd.DataFrame) -> str:
    """What a death is, in a sentence, and to which step the survivors were followed."""
    words = {
        "died": "Died: every pre-pool unit is zero on the whole probe set",
        "collapsed": "collapsed: no pre-pool unit varies over the probe set",
    }
    text = (
        "; ".join(words[event] for event in event_words(runs).split(" or "))
        + f", at {CONSECUTIVE} checks in a row over at least {SPAN} steps."
    )
    ends = runs.loc[runs["outcome"] == "survived", "outcome_step"].dropna()
    if len(ends):
        reach = f"step {ends.min()}" if ends.min() == ends.max() else f"steps {ends.min()} to {ends.max()}"
        text += f" Survivors were followed to {reach}."
    return text


def not_counted(runs: pd.DataFrame) -> list[str]:
    """A sentence on the runs without an outcome, if there are any."""
    counts = [f"{count} {state}" for state in UNFINISHED if (count := int((runs["state"] == state).sum()))]
    return [f"Not counted: {', '.join(counts)}."] if counts else []


def together(pooled: Sequence[str], done: str = "counted") -> list[str]:
    """A sentence on the columns in which runs that are taken together differ, if there are any."""
    return [f"Runs that differ in {', '.join(pooled)} are {done} together."] if pooled else []


def short(layer: str) -> str:
    """A layer's name without what all of its kind have in common."""
    return re.sub(r"^(layer|block)/|/output$|\.activation$|/?up_projection\.(weight|bias)$", "", layer) or layer


def evenly(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`, the first and the last among them: which of many are named."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})
