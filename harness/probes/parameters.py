"""Readings of parameters: gradients as the optimizer sees them, the update that it makes of them, batch-norm's ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from harness.probes.moments import Reducer

Row = dict[str, float | int]


class ParameterReader:
    """Reads the watched parameters right before and right after an optimizer step.

    A copy of the weights exists between `before` and `after` only. Everything stays on the device until the caller
    brings `pending` to the host.
    """

    def __init__(self, model: nn.Module, labels: Mapping[str, str], norms: Sequence[str]) -> None:
        """`labels`: full name of each watched parameter -> its name in the metrics; `norms`: names of batch-norms."""
        parameters = dict(model.named_parameters())
        self._watched = {label: parameters[name] for name, label in labels.items()}
        self._norms = {name: model.get_submodule(name) for name in norms}
        self._reducer = Reducer()
        self._copies: list[Tensor] = []
        self._read: list[str] = []
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def before(self) -> None:
        """Read gradients and keep the weights. A parameter without a gradient is left out."""
        self._read = [
            label for label, parameter in self._watched.items() if parameter.grad is not None and parameter.numel()
        ]
        weights = [self._watched[label].detach() for label in self._read]
        gradients = [_dense(weight.grad) for weight in map(self._watched.__getitem__, self._read)]
        self._copies = [weight.clone() for weight in weights]
        self._sums = [*_square_sums(gradients), *_square_sums(weights)]
        for gradient in gradients:
            self._sums.append(self._reducer.count_nonzero(gradient))
            self._sums.append(self._reducer.count_nonzero(gradient - gradient))  # zero for what is finite, else NaN

    @torch.no_grad()
    def after(self) -> None:
        """Read what the step changed, and batch-norm's scale and shift."""
        if self._copies:
            self._sums += _square_sums(
                [self._watched[label].detach() - copy for label, copy in zip(self._read, self._copies, strict=True)]
            )
        self._copies = []
        for norm in self._norms.values():
            for values in (norm.weight, norm.bias):
                if isinstance(values, Tensor):
                    self._sums += torch.aminmax(values.detach())

    @property
    def pending(self) -> Tensor | None:
        """What was read since the last `clear`, doubles on the device; None if there is nothing."""
        if not self._sums:
            return None
        device = self._sums[0].device
        return torch.stack([each.to(device, torch.float64) for each in self._sums])

    def clear(self) -> None:
        """Forget what was read."""
        self._copies, self._read, self._sums = [], [], []
        self._reducer.clear()

    def row(self, values: Sequence[float]) -> Row:
        """Named readings from `pending` brought to the host.

        grad/LABEL/rms, /zero_share (elements that are exactly zero), /nonfinite (elements); update/LABEL/rms and /ratio,
        RMS of the update over that of the weights before it, NaN for weights that are all zero; the same for all watched
        parameters together under the label `all`; norm/MODULE/gamma_min, gamma_max, beta_min, beta_max.
        """
        count = len(self._read)
        gradient, weight = values[:count], values[count : 2 * count]
        active, nonfinite = values[2 * count : 4 * count : 2], values[2 * count + 1 : 4 * count : 2]
        rest = values[4 * count :]
        sizes = [self._watched[label].numel() for label in self._read]
        row: Row = {}

        def add_gradient(label: str, square: float, active: float, nonfinite: float, size: int) -> None:
            row[f"grad/{label}/rms"] = math.sqrt(square / size)
            row[f"grad/{label}/zero_share"] = 1 - active / size
            row[f"grad/{label}/nonfinite"] = int(nonfinite)

        def add_update(label: str, square: float, weight: float, size: int) -> None:
            row[f"update/{label}/rms"] = math.sqrt(square / size)
            row[f"update/{label}/ratio"] = math.sqrt(square / weight) if weight else math.nan

        for position, label in enumerate(self._read):
            add_gradient(label, gradient[position], active[position], nonfinite[position], sizes[position])
        if count:
            add_gradient("all", sum(gradient), sum(active), sum(nonfinite), sum(sizes))
        if rest and count:
            update, rest = rest[:count], rest[count:]
            for position, label in enumerate(self._read):
                add_update(label, update[position], weight[position], sizes[position])
            add_update("all", sum(update), sum(weight), sum(sizes))
        if rest:
            ends = iter(rest)
            for name, norm in self._norms.items():
                for key, tensor in (("gamma", norm.weight), ("beta", norm.bias)):
                    if isinstance(tensor, Tensor):
                        row[f"norm/{name}/{key}_min"], row[f"norm/{name}/{key}_max"] = next(ends), next(ends)
        return row


def _dense(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    gradient = gradient.detach()
    return gradient.to_dense() if gradient.is_sparse else gradient


def _square_sums(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sum of squares of each, in float64, where the square of a vanishing gradient does not vanish."""
    return [norm.square() for norm in torch._foreach_norm(list(tensors), ord=2, dtype=torch.float64)]
