"""The layers that the blocks are made of. Tensors are (N, C, H, W) throughout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
"""Elements of an unfolded input up to which a convolution on a CPU is a product of matrices."""
WEIGHTS = 2**20
"""Weights times images up to which it is: the gradient of the weights is summed image by image."""


class Conv2d(nn.Conv2d):
    """torch's convolution; on a CPU a small one is a product of matrices, torch's own other way to do it.

    oneDNN takes 0.1 ms and more to begin, with which a small net spends half of its step. The choice is by shapes, so
    that a run repeats bitwise; the two ways differ by rounding.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._small(input, weight):
            return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return]
        unfolding: Callable[..., Tensor] = torch._C._nn.thnn_conv2d  # type: ignore[attr-defined]
        # All channels-last: where the order in memory of images and weights differs, its gradients are wrong.
        images = input.contiguous(memory_format=torch.channels_last)
        return unfolding(images, weight, self.kernel_size, bias, self.stride, self.padding)

    def _small(self, x: Tensor, weight: Tensor) -> bool:
        plain = type(x) is Tensor and x.dtype == torch.float32 and x.device.type == "cpu" and x.ndim == 4
        if not (plain and weight.is_contiguous(memory_format=torch.channels_last)):
            return False
        if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or _is_transformed():
            return False
        (rows, columns), (high, wide) = self.kernel_size, self.stride
        positions = x.shape[2] * x.shape[3] / (high * wide)  # about: padding apart
        unfolded = x.shape[0] * self.in_channels * rows * columns * positions
        return unfolded <= UNFOLDED and x.shape[0] * weight.numel() <= WEIGHTS


def _is_transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work, which know one of the two ways only."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


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
