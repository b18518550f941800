"""Costs that are measured and reported: what a sweep spends beyond its bare loop, and what the instruments cost."""
