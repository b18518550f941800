"""Seconds are counted once, however deep the timed parts lie in one another."""

import pytest

from harness import stopwatch
from harness.stopwatch import Stopwatch


def test_what_runs_inside_something_timed_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(stopwatch, "perf_counter", lambda: now)
    watch = Stopwatch()
    with watch.running():
        now += 1
        with watch.running():
            now += 2
        now += 4
    now += 8
    with pytest.raises(ZeroDivisionError), watch.running():
        now += 16
        raise ZeroDivisionError
    assert watch.seconds == 1 + 2 + 4 + 16
