"""Sweeps: a file becomes a list of run configurations, and an executor trains them. Never imports torch."""
