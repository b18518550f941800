"""The front door: run folders as tidy frames, one row a run (`load`), or one row a run and step (`load_rows`)."""

from analysis.frames.load import DamagedRuns, load, load_rows

__all__ = ["DamagedRuns", "load", "load_rows"]
