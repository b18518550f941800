"""Which event is the death of a network: its pool's input decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from harness.architectures.table import ARCHITECTURES

DeathEvent = Literal["died", "collapsed"]


def pool_input(name: str, axes: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a ReLU feeds the pool, and whether a batch-norm stands just before that ReLU."""
    row = ARCHITECTURES[name]
    ends_with_sum = row.kind != "inception" and row.last_layer is None and axes["repeats"][-1] > 0
    relu = axes["activation"] == "relu" and not (ends_with_sum and row.last_block is not None)
    normed = axes["batch_norm"] in ("after_sum", "pre_pool") if ends_with_sum else axes["batch_norm"] != "none"
    return relu, relu and normed


def death_event(name: str, axes: Mapping[str, Any]) -> DeathEvent:
    """`collapsed` where no ReLU feeds the pool or a batch-norm stands just before that ReLU, else `died`."""
    relu, normed = pool_input(name, axes)
    return "died" if relu and not normed else "collapsed"
