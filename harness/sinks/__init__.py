"""Metric sinks: the store, which is the truth, and wandb, a mirror of it that is never needed."""
