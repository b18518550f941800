"""Run folders and compact results as tidy frames: the first room of the analysis."""
