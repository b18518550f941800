"""Modules of the figures: concatenations, the Inception-ResNet block and the plain residual block."""

from __future__ import annotations

from torch import Tensor, nn

from harness import architectures
from harness.models.layers import Concatenation, Conv2d, ConvLayer, PaddedShortcut, ResidualSum, Style


def build_branch(branch: architectures.Branch, in_width: int, style: Style, *, linear: bool = False) -> nn.Module:
    """The layers of a branch, one after the other; `linear`: the last one has no activation."""
    layers: list[nn.Module] = []
    width = in_width
    for index, layer in enumerate(branch):
        if isinstance(layer, architectures.Pool):
            layers.append(_pool(layer))
        elif isinstance(layer, architectures.Fork):
            layers.append(Concatenation(_conv(conv, width, style) for conv in layer.convs))
            width = sum(conv.filters for conv in layer.convs)
        else:
            layers.append(_conv(layer, width, style, linear=linear and index == len(branch) - 1))
            width = layer.filters
    return nn.Sequential(*layers) if len(layers) > 1 else layers[0]


def build_module(module: architectures.Module, in_width: int, style: Style) -> nn.Module:
    """A module of the table: its branches, concatenated if there are several."""
    branches = [build_branch(branch, in_width, style) for branch in module]
    return Concatenation(branches) if len(branches) > 1 else branches[0]


def _conv(conv: architectures.Conv, in_width: int, style: Style, *, linear: bool = False) -> ConvLayer:
    return ConvLayer(in_width, conv.filters, conv.kernel, style, stride=conv.stride, valid=conv.valid, linear=linear)


def _pool(pool: architectures.Pool) -> nn.Module:
    padding = 0 if pool.valid else 1
    if pool.kind == "max":
        return nn.MaxPool2d(3, pool.stride, padding)
    return nn.AvgPool2d(3, pool.stride, padding, count_include_pad=pool.counts_padding)


class InceptionResNetBlock(nn.Module):
    """Figs. 10, 11, 13 and 16, 17, 19: activation(x + scale * up_projection(concatenation(branches(x)))).

    The up-projection is linear: a 1x1 convolution to the width of x, with bias and without batch-norm. The two norms
    are the identity in the paper's network; `branch_norm` stands on the branch's output, `sum_norm` on the sum.
    """

    def __init__(
        self,
        module: architectures.Module,
        width: int,
        style: Style,
        residual_sum: ResidualSum,
        *,
        bias: bool = True,
        branch_norm: bool = False,
        sum_norm: bool = False,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.branches = build_module(module, width, style)
        self.up_projection = Conv2d(architectures.out_width(module, width), width, 1, bias=bias)
        self.branch_norm = style.make_norm(width) if branch_norm else nn.Identity()
        self.residual_sum = residual_sum
        self.sum_norm = style.make_norm(width) if sum_norm else nn.Identity()
        self.activation = nn.Identity() if linear else style.make_activation()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        branch = self.branch_norm(self.up_projection(self.branches(x)))
        out: Tensor = self.activation(self.sum_norm(self.residual_sum(x, branch)))
        return out


class ResNetBlock(nn.Module):
    """He et al. (arXiv:1512.03385), fig. 2 with section 4.2: activation(shortcut(x) + scale * branch(x)).

    The branch is convolution, batch-norm, activation, convolution, batch-norm.
    """

    def __init__(
        self,
        module: architectures.Module,
        in_width: int,
        style: Style,
        residual_sum: ResidualSum,
        *,
        sum_norm: bool = False,
    ) -> None:
        super().__init__()
        width = architectures.out_width(module, in_width)
        stride = architectures.stride(module)
        same = stride == 1 and width == in_width
        self.shortcut = nn.Identity() if same else PaddedShortcut(in_width, width, stride)
        self.branch = build_branch(module[0], in_width, style, linear=True)
        self.residual_sum = residual_sum
        self.sum_norm = style.make_norm(width) if sum_norm else nn.Identity()
        self.activation = style.make_activation()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        out: Tensor = self.activation(self.sum_norm(self.residual_sum(self.shortcut(x), self.branch(x))))
        return out
