"""A research harness for the death of wide residual networks."""

__version__ = "0.1.0"
