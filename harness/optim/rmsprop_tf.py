"""RMSProp with the semantics of TensorFlow 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PIECE = 2**16
"""Elements that are updated at once on a CPU: they stay in its cache."""


class RMSPropTF(torch.optim.Optimizer):
    """RMSProp as `tf.train.RMSPropOptimizer` does it, the optimizer of 1602.07261 (section 4: decay 0.9, epsilon 1.0).

    With gradient g, ms starting at 1 and b at 0:

        ms += (1 - decay) * (g**2 - ms);  b = momentum * b + lr * g / sqrt(ms + eps);  w -= b

    Departures of torch.optim.RMSprop from it: ms starts at 0 there, epsilon stands outside the root, and the learning
    rate is applied outside the momentum buffer. With epsilon 1 and small gradients the start of ms makes a hidden
    warm-up, from 0.73 of the full step to 0.99 after 40 steps.

    `weight_decay` adds an L2 penalty to g. Gradients must be dense. State is kept in float32, or float64 for float64,
    that of many weights side by side: a step is a dozen operations on one long tensor instead of as many a weight.
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
        self._side_by_side: dict[tuple[int, torch.dtype, torch.device], _SideBySide] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._side_by_side = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            alike: dict[tuple[int, torch.dtype, torch.device], list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault((number, weight.dtype, weight.device), []).append(weight)
            for key, weights in alike.items():
                _update(weights, self._state(key, weights), group)
        return loss

    def _state(self, key: tuple[int, torch.dtype, torch.device], weights: list[Tensor]) -> _SideBySide:
        """The state of these weights side by side: made anew when it is another tensor's, as after loading one."""
        known = self._side_by_side.get(key)
        if known is None or not known.is_of([self.state[weight] for weight in weights]):
            known = _SideBySide.of([(weight, self.state[weight]) for weight in weights])
            self._side_by_side[key] = known
        return known


@dataclass(frozen=True)
class _SideBySide:
    """The state of several weights as two long tensors, and as the parts of them that have the weights' shapes.

    A part's elements are in the order that its weight has in memory, channels-last or not.
    """

    mean_square: Tensor
    momentum: Tensor
    mean_squares: list[Tensor]
    momenta: list[Tensor]

    @classmethod
    def of(cls, states: list[tuple[Tensor, dict[str, Any]]]) -> _SideBySide:
        """Take over the state that each weight has, or its initial one, and let the parts be its state from now on."""
        first = states[0][0]
        kind = torch.promote_types(first.dtype, torch.float32)
        total = sum(weight.numel() for weight, _ in states)
        found = cls(
            torch.ones(total, dtype=kind, device=first.device),
            torch.zeros(total, dtype=kind, device=first.device),
            [],
            [],
        )
        begin = 0
        for weight, state in states:
            strides = torch.empty_like(weight).stride()
            for name, whole, parts in (
                ("mean_square", found.mean_square, found.mean_squares),
                ("momentum", found.momentum, found.momenta),
            ):
                part = whole.as_strided(weight.shape, strides, begin)
                if name in state:
                    part.copy_(state[name])
                state[name] = part
                parts.append(part)
            begin += weight.numel()
        return found

    def is_of(self, states: list[dict[str, Any]]) -> bool:
        """Whether these are the states whose parts are here."""
        pairs = zip(states, self.mean_squares, strict=False)
        return len(states) == len(self.mean_squares) and all(state.get("mean_square") is part for state, part in pairs)

    def line_up(self, tensors: list[Tensor]) -> Tensor:
        """Tensors of the weights' shapes side by side, in the order and type of the state."""
        lines = []
        for tensor, part in zip(tensors, self.mean_squares, strict=True):
            if tensor.stride() != part.stride() and not _same_order(tensor, part):
                tensor = torch.empty_like(part, dtype=tensor.dtype).copy_(tensor)
            lines.append(tensor.as_strided((tensor.numel(),), (1,)))
        return torch.cat(lines).to(self.mean_square.dtype)


def _same_order(one: Tensor, other: Tensor) -> bool:
    """Whether the elements of two tensors of one shape lie in one order: strides along axes of length 1 say nothing."""
    return any(
        one.is_contiguous(memory_format=order) and other.is_contiguous(memory_format=order)
        for order in ((torch.contiguous_format, torch.channels_last) if one.ndim == 4 else (torch.contiguous_format,))
    )


def _update(weights: list[Tensor], state: _SideBySide, group: dict[str, Any]) -> None:
    gradient = state.line_up([weight.grad for weight in weights])  # type: ignore[misc]
    if group["weight_decay"]:
        gradient.add_(state.line_up(weights), alpha=group["weight_decay"])
    size = PIECE if gradient.device.type == "cpu" else gradient.numel()
    pieces = (torch.split(each, size) for each in (state.mean_square, state.momentum, gradient))
    for square, momentum, piece in zip(*pieces, strict=True):
        square.mul_(group["decay"]).addcmul_(piece, piece, value=1 - group["decay"])
        root = (square + group["eps"]).sqrt_()
        momentum.mul_(group["momentum"]).addcdiv_(piece, root, value=group["lr"])
    torch._foreach_sub_(weights, state.momenta)
