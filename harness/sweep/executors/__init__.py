"""Executors: each maps tasks to calls of the same function, `work`. Truth is on disk.

Whichever began a sweep, any continues it. A new one is a module here and a line in `harness.cli`.
"""

from harness.sweep.executors.protocol import BUSY_PAUSE, Display, Executor

__all__ = ["BUSY_PAUSE", "Display", "Executor"]
