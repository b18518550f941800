"""The layers that the blocks are made of. Tensors are (N, C, H, W) throughout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
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
        self.conv = nn.Conv2d(in_width, out_width, kernel, stride, padding, bias=not style.normed)
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
