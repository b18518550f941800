"""The layers that the blocks are made of. Tensors are (N, C, H, W) throughout."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def batch_norm(width: int, *, eps: float = 1e-3, momentum: float = 0.1, gamma: bool = True) -> nn.BatchNorm2d:
    """Batch-norm; `gamma=False` leaves out its trained scale, as slim does by default, and puts a constant 1 there."""
    norm = nn.BatchNorm2d(width, eps=eps, momentum=momentum)
    if not gamma:
        del norm.weight
        norm.register_buffer("weight", torch.ones(width), persistent=False)
    return norm


@dataclass(frozen=True)
class Style:
    """What all layers of one network have in common."""

    activation: str = "relu"
    normed: bool = True
    bn_gamma: bool = True
    bn_eps: float = 1e-3
    bn_momentum: float = 0.1

    def make_activation(self) -> nn.Module:
        """A new instance for every place, not in place: what is hooked on either side keeps its values."""
        return ACTIVATIONS[self.activation]()

    def make_norm(self, width: int) -> nn.Module:
        """Batch-norm, or nothing in a network without."""
        if not self.normed:
            return nn.Identity()
        return batch_norm(width, eps=self.bn_eps, momentum=self.bn_momentum, gamma=self.bn_gamma)


UNFOLDED = 2**16
"""Elements of an unfolded input up to which a convolution on a CPU is a product of matrices for each image."""
WEIGHTS = 2**20
"""Weights times images up to which it is: the gradient of the weights is summed image by image."""
POINTWISE = 2**15
"""Elements of an input from which a 1x1 convolution on a CPU is one product of matrices for all images..."""
MANY = 16
"""... and images from which it is, whatever their size."""


class _Way(NamedTuple):
    """How images of one shape are convolved: by which function, with which taps of the kernel, and padding."""

    by: Literal["linear", "unfolding", "torch"]
    taps: tuple[slice, slice] | None
    kernel: tuple[int, int]
    padding: tuple[int, int]


class Conv2d(nn.Conv2d):
    """torch's convolution, by the quickest of torch's ways to do it for channels-last float32 images on a CPU.

    Taps of the kernel that meet padding alone are left out. A 1x1 convolution of much is a linear layer at every
    position, one product of matrices; another small one is a product for each image, where oneDNN would take 0.1 ms to
    begin. The choice is by shapes, so that a run repeats bitwise; the ways differ by rounding.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._ways: dict[torch.Size, _Way] = {}

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _plain(input, weight):
            return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return]
        way = self._ways.get(input.shape)
        if way is None:
            way = self._ways[input.shape] = self._way(input.shape)
        if way.taps is not None:
            weight = weight[(slice(None), slice(None), *way.taps)].contiguous(memory_format=torch.channels_last)
        if way.by == "linear":
            return functional.linear(input.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)
        if way.by == "unfolding":
            return _unfolding(input, weight, way.kernel, bias, self.stride, way.padding)
        return functional.conv2d(input, weight, bias, self.stride, way.padding)

    def _way(self, shape: Sequence[int]) -> _Way:
        padding = (int(self.padding[0]), int(self.padding[1]))
        kernel = (self.kernel_size[0], self.kernel_size[1])
        taps = None
        if self.stride == (1, 1) and kernel == (2 * padding[0] + 1, 2 * padding[1] + 1):
            high, wide = min(padding[0], shape[2] - 1), min(padding[1], shape[3] - 1)  # taps beside the middle one
            if (high, wide) != padding:
                row, column = padding[0] - high, padding[1] - wide
                kernel, padding = (2 * high + 1, 2 * wide + 1), (high, wide)
                taps = slice(row, row + kernel[0]), slice(column, column + kernel[1])
        if self.stride == (1, 1) and kernel == (1, 1) and (shape[0] >= MANY or math.prod(shape) >= POINTWISE):
            return _Way("linear", taps, kernel, padding)
        positions = shape[2] * shape[3] / (self.stride[0] * self.stride[1])  # about: padding apart
        unfolded = shape[0] * positions * self.in_channels * math.prod(kernel)
        weights = shape[0] * self.in_channels * self.out_channels * math.prod(kernel)
        return _Way("unfolding" if unfolded <= UNFOLDED and weights <= WEIGHTS else "torch", taps, kernel, padding)


def _unfolding(x: Tensor, *rest: Any) -> Tensor:
    found: Tensor = torch._C._nn.thnn_conv2d(x, *rest)  # type: ignore[attr-defined]
    return found


def _plain(x: Tensor, weight: Tensor) -> bool:
    """Whether images and weights are such that all ways are known to give the same.

    Both must be channels-last: where their orders in memory differ, the gradients of `thnn_conv2d` are wrong. The
    compiler chooses for itself; torch.func and forward-mode differentiation know only torch's usual way.
    """
    return (
        type(x) is Tensor
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


class ConvLayer(nn.Module):
    """Convolution, batch-norm, activation. Without batch-norm the convolution has the bias that batch-norm had."""

    def __init__(
        self,
        in_width: int,
        out_width: int,
        kernel: tuple[int, int],
        style: Style,
        *,
        stride: int = 1,
        valid: bool = False,
        linear: bool = False,
    ) -> None:
        super().__init__()
        padding = (0, 0) if valid else (kernel[0] // 2, kernel[1] // 2)
        self.conv = Conv2d(in_width, out_width, kernel, stride, padding, bias=not style.normed)
        self.norm = style.make_norm(out_width)
        self.activation = nn.Identity() if linear else style.make_activation()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out


class Concatenation(nn.ModuleList):
    """Branches on the same input, their outputs concatenated along the channels."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.cat([branch(x) for branch in self], dim=1)


class ResidualSum(nn.Module):
    """skip + scale * branch, the sum of a residual block before its activation.

    A module of its own, so that a hook on it sees the skip, the unscaled branch and the sum. `scale` is a number, or a
    parameter (a scalar) if it is learned.
    """

    scale: float | nn.Parameter

    def __init__(self, scale: float, learned: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale))) if learned else float(scale)

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:  # noqa: D102
        # One order and rounding for fixed and learned scales, that of timm: its networks' outputs are met bit by bit.
        return skip + self.scale * branch

    def extra_repr(self) -> str:  # noqa: D102
        return f"scale={self.scale}" if isinstance(self.scale, float) else "scale=learned"


class PaddedShortcut(nn.Module):
    """Shortcut A of He et al. (arXiv:1512.03385): every `stride`-th position, zeros for the channels that are new.

    The zeros come after the channels of the input; the paper does not say where.
    """

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = out_width - in_width

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class GlobalAveragePool(nn.Module):
    """Mean over positions: (N, C, H, W) -> (N, C). Its input is the pre-pool activation."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.mean(dim=(2, 3))
