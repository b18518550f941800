"""The executor `inline`: one run after the other in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.sweep.executors.protocol import BUSY_PAUSE, Display
from harness.sweep.work import Task, work


@dataclass(frozen=True)
class Inline:
    """Does one run after the other in this process."""

    here: ClassVar[bool] = True

    def run(self, tasks: Sequence[Task], display: Display) -> None:
        """See `Executor.run`."""
        queue = list(tasks)
        while queue:
            task = queue.pop(0)
            display.started(1)
            report = work(task)
            if not report.ended:
                queue.append(task)
                time.sleep(BUSY_PAUSE)
            display.ended(report)
