"""Random numbers of a run, a stream for each purpose, as pure functions of a place."""

from __future__ import annotations

import numpy as np

DISTORTIONS, RANDOM_VIEWS, REPLICA_TURNS = 1, 2, 3
"""Purposes."""


def chance(purpose: int, *place: int) -> np.random.Generator:
    """The random numbers of one purpose at one place: always (purpose, seed, ...) of the same length."""
    return np.random.default_rng((purpose, *place))
