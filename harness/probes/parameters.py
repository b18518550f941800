"""Readings of parameters: gradients as the optimizer sees them, the update made of them, batch-norm's ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

import torch
from torch import Tensor, nn

from harness.probes.moments import EXACT_IN_FLOAT32, wide

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
        self._several_devices = len({parameter.device for parameter in parameters.values()}) > 1
        self._copies: list[Tensor] = []
        self._read: list[str] = []
        self._sums: list[Tensor] = []
        self._updated = self._begun = False

    @torch.no_grad()
    def before(self) -> None:
        """Read gradients and keep the weights. A parameter without a gradient is left out."""
        self._read = [
            label for label, parameter in self._watched.items() if parameter.grad is not None and parameter.numel()
        ]
        self._begun = True
        weights = [self._watched[label].detach() for label in self._read]
        gradients = [_dense(self._watched[label].grad) for label in self._read]
        self._copies, self._updated = [weight.clone() for weight in weights], False
        differences = torch._foreach_sub(gradients, gradients) if gradients else ()  # zero where finite, else NaN
        self._sums = [*_norms([*gradients, *weights]), *_norms([*gradients, *differences], 0)]

    @torch.no_grad()
    def after(self) -> None:
        """Read what the step changed, and batch-norm's scale and shift."""
        if self._copies:
            torch._foreach_sub_(self._copies, [self._watched[label].detach() for label in self._read])
            self._sums += _norms(self._copies)
        self._copies, self._updated = [], True
        for norm in self._norms.values():
            for values in (norm.weight, norm.bias):
                if isinstance(values, Tensor):
                    self._sums += torch.aminmax(values.detach())

    @property
    def read(self) -> bool:
        """Whether `before` was called for the step, so that `after` can say what it changed."""
        return self._begun

    @property
    def pending(self) -> Tensor | None:
        """What was read since the last `clear`, doubles on the device; None if there is nothing."""
        if not self._sums:
            return None
        sums = self._sums
        if self._several_devices:
            sums = [each.to(sums[0].device) for each in sums]
        return torch.stack(sums).double()

    def clear(self) -> None:
        """Forget what was read."""
        self._copies, self._read, self._sums, self._updated = [], [], [], False
        self._begun = False

    def row(self, values: Sequence[float]) -> Row:
        """Named readings from `pending` brought to the host.

        grad/LABEL/rms; grad/LABEL/zero_share, of elements that are exactly zero; grad/LABEL/nonfinite, a number of
        elements; update/LABEL/rms; update/LABEL/ratio, RMS of the update over that of the weights before it, NaN for
        weights that are all zero; the same of all watched parameters together with `all` for LABEL;
        norm/MODULE/gamma_min, gamma_max, beta_min, beta_max.
        """
        count = len(self._read)
        kinds = 5 if self._updated else 4
        gradient, weight, nonzero, nonfinite, *update = (values[i * count : (i + 1) * count] for i in range(kinds))
        sizes = [self._watched[label].numel() for label in self._read]
        row: Row = {}

        def add(label: str, take: Callable[[Sequence[float]], float], join: Callable[[Sequence[float]], float]) -> None:
            size, norm = take(sizes), join(gradient)
            row[f"grad/{label}/rms"] = norm / math.sqrt(size)
            row[f"grad/{label}/zero_share"] = 1 - take(nonzero) / size
            row[f"grad/{label}/nonfinite"] = int(take(nonfinite))
            if update:
                row[f"update/{label}/rms"] = join(update[0]) / math.sqrt(size)
                row[f"update/{label}/ratio"] = join(update[0]) / join(weight) if join(weight) else math.nan

        for position, label in enumerate(self._read):
            each = itemgetter(position)
            add(label, each, each)
        if count:
            add("all", sum, lambda norms: math.hypot(*norms))
        ends = iter(values[kinds * count :])
        for name, norm in self._norms.items() if self._updated else ():
            for key, tensor in (("gamma", norm.weight), ("beta", norm.bias)):
                if isinstance(tensor, Tensor):
                    row[f"norm/{name}/{key}_min"], row[f"norm/{name}/{key}_max"] = next(ends), next(ends)
        return row


def _dense(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    gradient = gradient.detach()
    return gradient.to_dense() if gradient.is_sparse else gradient


def _norms(tensors: Sequence[Tensor], order: int = 2) -> Sequence[Tensor]:
    """Norm of each tensor: Euclidean, or for order 0 the number of elements that are not zero; NaN is not."""
    if not tensors:
        return ()
    exact = all(tensor.numel() <= EXACT_IN_FLOAT32 for tensor in tensors)
    return torch._foreach_norm([wide(tensor) for tensor in tensors], order, None if exact else torch.float64)
