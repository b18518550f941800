"""Words that figures share: which event a network can suffer, and what a caption says of it."""

from __future__ import annotations

import pandas as pd

from analysis.frames.events import EVENTS
from harness.outcome import CONSECUTIVE, SPAN

UNFINISHED = ("failed", "running", "pending")


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
