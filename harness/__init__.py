"""A research harness for the death of wide residual networks."""
