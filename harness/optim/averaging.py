"""The exponential moving average of a model's parameters, for evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """Moving average a of the parameters w: after each update, a += (1 - decay) * (w - a).

    With bias correction a starts at zero and is read as a / (1 - decay**t), so that the first steps weigh as their
    number says; without it, a starts at the initial parameters, as in TensorFlow. Buffers are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float, bias_correction: bool) -> None:
        self._model, self._decay, self._bias_correction = model, decay, bias_correction
        self._parameters: list[Tensor] = list(model.parameters())
        self._count = 0
        with torch.no_grad():
            start = torch.zeros_like if bias_correction else torch.clone
            self._values = [start(parameter) for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters after an update."""
        torch._foreach_lerp_(self._values, self._parameters, 1 - self._decay)
        self._count += 1

    @torch.no_grad()
    def read(self) -> list[Tensor]:
        """The averaged parameters, in the order of the model's; the current ones before the first update."""
        if not self._bias_correction:
            return self._values
        if self._count == 0:
            return [parameter.clone() for parameter in self._parameters]
        return list(torch._foreach_div(self._values, 1 - self._decay**self._count))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model its averaged parameters until the end of the block."""
        with torch.no_grad():
            current = [parameter.clone() for parameter in self._parameters]
            torch._foreach_copy_(self._parameters, self.read())
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._parameters, current)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values for a checkpoint; `weights` are the averaged parameters by name."""
        names = [name for name, _ in self._model.named_parameters()]
        return {"count": self._count, "values": self._values, "weights": dict(zip(names, self.read(), strict=True))}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's state."""
        self._count = state["count"]
        torch._foreach_copy_(self._values, state["values"])
