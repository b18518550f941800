"""Which event is the death of a network: its pool's input decides."""

from __future__ import annotations

from typing import Literal

from harness.architectures.fields import ModelConfig
from harness.architectures.table import ARCHITECTURES

DeathEvent = Literal["died", "collapsed"]


def pool_input(config: ModelConfig) -> tuple[bool, bool]:
    """Whether a ReLU feeds the pool, and whether a batch-norm stands just before that ReLU.

    This and `death_event` take a resolved configuration.
    """
    row, where = ARCHITECTURES[config.name], config.batch_norm
    ends_with_sum = row.kind != "inception" and row.last_layer is None and config.modules[-1] > 0
    relu = config.activation == "relu" and not (ends_with_sum and row.last_block is not None)
    normed = where in ("after_sum", "pre_pool") if ends_with_sum else where != "none"
    return relu, relu and normed


def death_event(config: ModelConfig) -> DeathEvent:
    """`collapsed` where no ReLU feeds the pool or a batch-norm stands just before that ReLU, else `died`."""
    relu, normed = pool_input(config)
    return "died" if relu and not normed else "collapsed"
