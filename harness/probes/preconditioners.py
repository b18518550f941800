"""What an optimizer divides a gradient by, and its momentum: read of its state, by the names that torch gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class NoUpdateYet(ValueError):
    """An optimizer that divides by what its updates leave has made none."""


@dataclass(frozen=True)
class HeavyBall:
    """An optimizer as momentum on gradients that are divided by P: b = m b + gain g / P; w -= lr b.

    parameters: those that are trained. divisors: P of each, a tensor of its shape or one number, over the factor of its
        learning rate. penalties: factor of each one's L2 penalty.
    momentum: m, None where it is another kind of momentum (Nesterov's) or not the same for all.
    gain: 1, or 1 - beta1 of Adam, 1 - dampening of SGD.
    lr: the learning rate, the largest of several, of which the others are the factors.
    """

    parameters: list[Tensor]
    divisors: list[Tensor | float]
    penalties: list[float]
    momentum: float | None
    gain: float
    lr: float


def heavy_ball(optimizer: torch.optim.Optimizer) -> HeavyBall:
    """How an optimizer made its last update: SGD, RMSprop, Adam or AdamW of torch, or RMSProp of TensorFlow.

    P is that of the state as it is: of RMSProp of TensorFlow sqrt(ms + eps), which begins with ms = 1; of RMSprop
    sqrt(v) + eps; of Adam (1 - beta1**t) (sqrt(v / (1 - beta2**t)) + eps); of SGD 1. Parameters that were never
    updated by the others are left out. A group's `lr_factor` is its factor, else its rate over the largest of all.
    Raises ValueError for another optimizer, and NoUpdateYet where there is no P before its first update.
    """
    name = next((kind.__name__ for kind in type(optimizer).__mro__ if kind.__name__ in _DIVISORS), None)
    if name is None:
        raise ValueError(
            f"{type(optimizer).__name__} has no preconditioner that is known; known are {', '.join(_DIVISORS)}"
        )
    groups = optimizer.param_groups
    lr = max(float(group["lr"]) for group in groups)
    parameters: list[Tensor] = []
    divisors: list[Tensor | float] = []
    penalties: list[float] = []
    for group in groups:
        factor = group.get("lr_factor", float(group["lr"]) / lr if lr else 1.0)
        decoupled = group.get("decoupled_weight_decay", name == "AdamW")
        for parameter in group["params"]:
            if not parameter.requires_grad or factor == 0:
                continue
            divisor = _DIVISORS[name](optimizer.state.get(parameter, {}), group)
            if divisor is not None:
                parameters.append(parameter)
                divisors.append(divisor / factor)
                penalties.append(0.0 if decoupled else float(group["weight_decay"]))
    if not parameters:
        raise NoUpdateYet(f"{type(optimizer).__name__} has made no update yet, so that it divides by nothing known")
    balls = {_momentum(group) for group in groups}
    momentum, gain = balls.pop() if len(balls) == 1 else (None, 1.0)
    return HeavyBall(parameters, divisors, penalties, momentum, gain, lr)


def _momentum(group: Mapping[str, Any]) -> tuple[float | None, float]:
    if "betas" in group:
        return float(group["betas"][0]), 1 - float(group["betas"][0])
    return None if group.get("nesterov") else float(group["momentum"]), 1 - float(group.get("dampening", 0))


State = Mapping[str, Any]


def _of_sgd(state: State, group: Mapping[str, Any]) -> float:
    return 1.0


def _of_rmsprop_tf(state: State, group: Mapping[str, Any]) -> Tensor | float:
    square: Tensor | float = state.get("mean_square", state.get("square_avg", 1.0))
    root: Tensor | float = (square + group["eps"]) ** 0.5
    return root


def _of_rmsprop(state: State, group: Mapping[str, Any]) -> Tensor | None:
    if "square_avg" not in state:
        return None
    square: Tensor = state["square_avg"]
    if group["centered"]:
        square = square - state["grad_avg"] ** 2
    root: Tensor = square.sqrt() + group["eps"]
    return root


def _of_adam(state: State, group: Mapping[str, Any]) -> Tensor | None:
    if "exp_avg_sq" not in state:
        return None
    first, second = (1 - float(beta) ** float(state["step"]) for beta in group["betas"])
    square: Tensor = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    root: Tensor = first * ((square / second).sqrt() + group["eps"])
    return root


_DIVISORS: Mapping[str, Callable[[State, Mapping[str, Any]], Tensor | float | None]] = {
    "SGD": _of_sgd,
    "RMSPropTF": _of_rmsprop_tf,
    "RMSpropTF": _of_rmsprop_tf,  # timm's
    "RMSprop": _of_rmsprop,
    "AdamW": _of_adam,
    "Adam": _of_adam,
}
"""By the name of the class, or of one that it is made of: the first of them counts."""
