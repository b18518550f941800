"""Initial weights. Everything is drawn from torch's global generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn

# Standard deviation that a unit normal keeps when cut off at two of its own.
_CUT = 2.0


def _truncated(weight: Tensor, std: float) -> None:
    nn.init.trunc_normal_(weight, std=std, a=-_CUT * std, b=_CUT * std)


def _variance_scaling(weight: Tensor) -> None:
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(weight)
    _truncated(weight, math.sqrt(1.3 * 2.0 / fan_in))


def _he(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _xavier_uniform(weight: Tensor) -> None:
    nn.init.xavier_uniform_(weight)


INITS: Mapping[str, Callable[[Tensor], None]] = {
    "xavier_uniform": _xavier_uniform,
    "trunc_normal": lambda weight: _truncated(weight, 0.1),
    "he": _he,
    "variance_scaling": _variance_scaling,
}


def initialise(model: nn.Module, init: str) -> None:
    """Draw the weights of every convolution and linear layer, in the order of the modules; biases become 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            INITS[init](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
