"""RMSProp with the semantics of TensorFlow 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RMSPropTF(torch.optim.Optimizer):
    """RMSProp as `tf.train.RMSPropOptimizer` does it, the optimizer of 1602.07261 (section 4: decay 0.9, epsilon 1.0).

    With gradient g, ms starting at 1 and b at 0:

        ms += (1 - decay) * (g**2 - ms);  b = momentum * b + lr * g / sqrt(ms + eps);  w -= b

    Departures of torch.optim.RMSprop from it: ms starts at 0 there, epsilon stands outside the root, and the learning
    rate is applied outside the momentum buffer. With epsilon 1 and small gradients the start of ms makes a hidden
    warm-up, from 0.73 of the full step to 0.99 after 40 steps.

    `weight_decay` adds an L2 penalty to g. Gradients must be dense. State is kept in float32, or float64 for float64.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.045,
        decay: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1.0,
        *,
        weight_decay: float = 0.0,
    ) -> None:
        """Raises ValueError for a rate below 0, a decay or momentum outside [0, 1), or eps not above 0."""
        if not lr >= 0:
            raise ValueError(f"lr is {lr}; expected a number >= 0")
        if not eps > 0:
            raise ValueError(f"eps is {eps}; expected a number > 0")
        for name, value in (("decay", decay), ("momentum", momentum)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; expected a number in [0, 1)")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay is {weight_decay}; expected a number >= 0")
        super().__init__(
            params, {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            state = self.state[weight]
            if not state:
                kind = torch.promote_types(weight.dtype, torch.float32)
                state["mean_square"] = torch.ones_like(weight, dtype=kind)
                state["momentum"] = torch.zeros_like(weight, dtype=kind)
        squares = [self.state[weight]["mean_square"] for weight in weights]
        buffers = [self.state[weight]["momentum"] for weight in weights]
        gradients = [weight.grad.to(square.dtype) for weight, square in zip(weights, squares, strict=True)]  # type: ignore[union-attr]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        torch._foreach_mul_(squares, group["decay"])
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["decay"])
        roots = torch._foreach_add(squares, group["eps"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_addcdiv_(buffers, gradients, roots, value=group["lr"])
        torch._foreach_sub_(weights, buffers)
