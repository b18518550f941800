"""Figures of frames and of what the statistics estimate: a module a subject, one style for all."""
