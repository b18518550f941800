"""How large a network is, by arithmetic on its row of the table: what would not fit is refused without building it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from harness.architectures.notation import Conv, Fork, Module
from harness.architectures.plan import blueprint
from harness.architectures.table import AUX_FILTERS, AUX_POOL, AUX_STAGE
from harness.architectures.widths import out_width, scale_filters

if TYPE_CHECKING:
    from harness.architectures.fields import ModelConfig


@dataclass(frozen=True, slots=True)
class Size:
    """Numbers that a network keeps.

    parameters: trained ones. activations: what one training image leaves in memory for the backward pass.
    """

    parameters: int
    activations: int

    def __add__(self, other: Size) -> Size:
        return Size(self.parameters + other.parameters, self.activations + other.activations)


@cache
def network_size(config: ModelConfig, num_classes: int, image_size: int) -> Size:
    """The size of a resolved configuration's network for square images.

    Parameters are exact but for switched-off biases and scales. Of a convolution both outputs are counted, before
    batch-norm and after the activation (of the last one of a plain block the activated sum), of a concatenation its own
    copy, of a residual block the activated sum, what a batch-norm on its way takes, and the branch of a learned scale.
    With ReLU that is what torch keeps, or up to 11 % less; the smooth activations keep their input too.
    """
    plan = blueprint(config)
    kind, normed = plan.architecture.kind, config.batch_norm != "none"
    total, width, grid = Size(0, 0), 3, image_size
    for module in plan.stem:
        part, width, grid = _module(module, width, grid, normed)
        total += part
    for index, modules in enumerate(plan.stages):
        reduction = plan.reductions[index - 1] if index else None
        if reduction is not None:
            part, width, grid = _module(reduction, width, grid, normed)
            total += part
        for module in modules:
            part, out, grid = _module(module, width, grid, normed)
            total += part
            if kind == "inception_resnet":
                norms = (config.batch_norm == "branch_output") + (config.batch_norm == "after_sum")
                kept = 1 + norms + (config.residual_scale == "learned")
                total += Size(width * (out + 1 + 2 * norms), kept * width * grid * grid)
            else:
                width = out
        if index == AUX_STAGE and config.aux_head:
            total += _aux_head(width, grid, num_classes, config.width)
    if plan.last_layer is not None:
        part, width, grid = _module(plan.last_layer, width, grid, normed)
        total += part
    return total + Size((width + 1) * num_classes, width + num_classes)


def _module(module: Module, width: int, grid: int, normed: bool) -> tuple[Size, int, int]:
    """The size of a module of branches, its output's channels, and its output's height and width."""
    parameters = activations = 0
    out_grid = grid
    for branch in module:
        channels, side = width, grid
        for layer in branch:
            if isinstance(layer, Conv | Fork):
                forked = layer.convs if isinstance(layer, Fork) else (layer,)
                if isinstance(layer, Conv):
                    side = _side(side, max(layer.kernel), layer.stride, layer.valid)
                parameters += sum(_parameters(conv, channels, normed) for conv in forked)
                channels = sum(conv.filters for conv in forked)
                activations += (1 + normed) * channels * side * side
            else:
                side = _side(side, 3, layer.stride, layer.valid)
                activations += channels * side * side
        out_grid = side
    out = out_width(module, width)
    return Size(parameters, activations + (out * out_grid**2 if len(module) > 1 else 0)), out, out_grid


def _side(side: int, kernel: int, stride: int, valid: bool) -> int:
    return (side - kernel) // stride + 1 if valid else -(-side // stride)


def _parameters(conv: Conv, width: int, normed: bool) -> int:
    """Weights, and batch-norm's scale and shift, or the bias that stands for them."""
    return conv.kernel[0] * conv.kernel[1] * width * conv.filters + (1 + normed) * conv.filters


def _aux_head(width: int, grid: int, num_classes: int, factor: float) -> Size:
    narrow, wide = (scale_filters(filters, factor) for filters in AUX_FILTERS)
    rest = (grid - AUX_POOL) // 3 + 1
    parameters = (width + 2) * narrow + (narrow * rest**2 + 2) * wide + (wide + 1) * num_classes
    return Size(parameters, (width + 2 * narrow) * rest**2 + 2 * wide)
