"""What is read of a fixed set of inputs beyond the units' sums: the features' rank, and what up-projections pass on."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.probes.spectra import effective_rank, spectral_norm


class SetReader:
    """Hooks that stand while the batches of a set pass a model, and the row of what they saw.

    prepool/feature_rank: the effective rank of the pooled features (see `effective_rank`).
    block/b03/up_projection/mean_share: the share of the up-projection's output, its bias apart, that comes from the
        mean of its input: the mean square of W mean(x) over that of W x. Without padding it is in [0, 1].
    block/b03/up_projection/spectral_norm: of its kernel (see `spectral_norm`); no property of the set.
    """

    def __init__(
        self, pool: nn.Module | None, up_projections: Mapping[str, nn.Module], wanted: Collection[str]
    ) -> None:
        """`up_projections`: convolutions or linear layers, by their name in the metrics, `block/b03/up_projection`."""
        self._pool = pool if "feature_rank" in wanted else None
        self._through = dict(up_projections) if "mean_share" in wanted else {}
        self._kernels = dict(up_projections) if "spectral_norm" in wanted else {}
        self._features: list[Tensor] = []
        self._passed: dict[str, _Passed] = {}

    @contextlib.contextmanager
    def reading(self, own_weights: bool = True) -> Iterator[None]:
        """Read the forward passes up to the end of the block; of other weights than the model's the rank only."""
        self._features, self._passed = [], {}
        handles = [] if self._pool is None else [self._pool.register_forward_hook(self._take_features)]
        for label, module in self._through.items() if own_weights else ():
            self._passed[label] = passed = _Passed(module)
            handles.append(module.register_forward_hook(passed.add))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _take_features(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim >= 2 and output.is_floating_point():
            self._features.append(output.detach().flatten(1))

    def row(self, source: str) -> dict[str, float]:
        """The readings of the passes since `reading`; what was not called is left out. One transfer to the host."""
        found: dict[str, Tensor] = {}
        if self._features:
            found[f"prepool/feature_rank_{source}"] = effective_rank(torch.cat(self._features))
        for label, passed in self._passed.items():
            if passed.positions:
                found[f"{label}/mean_share_{source}"] = passed.mean_share()
        self._features, self._passed = [], {}
        return _on_host(found)

    def weights_row(self) -> dict[str, float]:
        """The readings of the weights as they are now."""
        kernels = {label: module.weight for label, module in self._kernels.items()}
        return _on_host(
            {f"{label}/spectral_norm": spectral_norm(w) for label, w in kernels.items() if isinstance(w, Tensor)}
        )


class _Passed:
    """Sums over what passed a convolution or linear layer: its inputs, and the squares of its outputs less the bias."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._axis = 1 - module.weight.ndim  # of the channels: -1 of a linear layer's tensors, -3 of Conv2d's
        self.positions = self._outputs = 0
        self._inputs: Tensor
        self._squares: Tensor

    def add(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Take a forward pass; what is no tensor of floating-point numbers is passed over."""
        if not (inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor) and inputs[0].numel()):
            return
        x, y = inputs[0].detach(), self._without_bias(output.detach())
        others = [dimension for dimension in range(x.ndim) if dimension != x.ndim + self._axis]
        total, squares = x.sum(others, dtype=torch.float64), y.double().square_().sum()
        if not self.positions:
            self._inputs, self._squares = total, squares
        else:
            self._inputs, self._squares = self._inputs + total, self._squares + squares
        self.positions += x.numel() // x.shape[self._axis]
        self._outputs += y.numel()
        self._shape = [1, *x.shape[self._axis :]]

    def mean_share(self) -> Tensor:
        """Mean square of what the layer makes of its inputs' mean, over that of what it made of them, a double."""
        channels = [-1] + [1] * (-1 - self._axis)
        mean = (self._inputs / self.positions).to(self._module.weight.dtype).view(channels).expand(self._shape)
        with torch.no_grad(), torch.autocast(mean.device.type, enabled=False):
            through = self._without_bias(type(self._module).forward(self._module, mean))
        return through.double().square().mean() / (self._squares / self._outputs)

    def _without_bias(self, y: Tensor) -> Tensor:
        bias = self._module.bias
        return y if bias is None else y - bias.detach().view([-1] + [1] * (-1 - self._axis))


def _on_host(found: Mapping[str, Tensor]) -> dict[str, float]:
    if not found:
        return {}
    device = next(iter(found.values())).device
    return dict(zip(found, torch.stack([value.to(device) for value in found.values()]).tolist(), strict=True))
