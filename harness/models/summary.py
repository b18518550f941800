"""What a network costs, counted on its modules: parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from harness import architectures
from harness.architectures import DeathEvent
from harness.config import ModelConfig
from harness.located import InputError
from harness.models.build import configured
from harness.models.network import Network


@dataclass(frozen=True)
class Part:
    """One part of a network, in the order in which an image passes."""

    name: str
    """`stem`, `stage 1`, `reduction 1`, ..., `last layer`, `classifier` or `aux head`."""
    modules: int
    """Modules (blocks) in it."""
    params: int
    """Trained parameters, batch-norm's gamma included."""
    macs: int
    """Multiply-adds of convolutions and linear layers for one image, in evaluation."""


@dataclass(frozen=True)
class Summary:
    """A network in numbers."""

    config: ModelConfig
    """The resolved configuration."""
    image_size: int
    minimum_image_size: int
    """Smallest height and width that the stem accepts."""
    params: int
    """Parameters, batch-norm's gamma included; running statistics are none."""
    params_without_gamma: int
    """Parameters without batch-norm's gamma, as TF-slim and Keras count."""
    macs: int
    """Multiply-adds of convolutions and linear layers for one image, in evaluation."""
    convolutions: int
    trunk_widths: tuple[int, ...]
    """Channels that each stage puts out."""
    pre_pool_width: int
    """Units of the pre-pool activation."""
    grids: tuple[int, ...]
    """Height and width of each stage's output."""
    death_event: DeathEvent
    relu_feeds_pool: bool
    bn_before_pool_relu: bool
    parts: tuple[Part, ...]


def summarise(name: str, *, num_classes: int, image_size: int, **fields: Any) -> Summary:
    """Count a network without allocating it; the arguments are those of `build_model`. Raises ValueError as it does."""
    config = configured(name, image_size, **fields)
    with torch.device("meta"):
        model = Network(config, num_classes=num_classes, image_size=image_size)
        macs = _multiply_adds(model, torch.empty(1, 3, image_size, image_size))
    gamma = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    gamma = gamma if config.bn_gamma else 0
    params = _params(model)
    plan = architectures.blueprint(config)
    return Summary(
        config=config,
        image_size=image_size,
        minimum_image_size=architectures.minimum_image_size(config.name, config.stem or "paper"),
        params=params,
        params_without_gamma=params - gamma,
        macs=sum(macs.values()),
        convolutions=sum(isinstance(module, nn.Conv2d) for module in model.modules()),
        trunk_widths=plan.trunk_widths(),
        pre_pool_width=model.classifier.in_features,
        grids=plan.grids(image_size),
        death_event=model.death_event,
        relu_feeds_pool=model.relu_feeds_pool,
        bn_before_pool_relu=model.bn_before_pool_relu,
        parts=tuple(
            Part(
                name,
                len(part) if isinstance(part, nn.Sequential) else 1,
                _params(part),
                sum(macs.get(module, 0) for module in part.modules()),
            )
            for name, part in model.parts()
            if not isinstance(part, nn.Identity)
        ),
    )


def models_table(width: float = 1.0, image_size: int | None = None, num_classes: int | None = None) -> Table:
    """Every architecture with its counts. Size and classes left out: 299 and 1000, or 32 and 10 for CIFAR's nets.

    Raises InputError where a network cannot be built.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("architecture", no_wrap=True)
    for column in ("parameters", "without gamma", "multiply-adds", "convs", "trunk widths", "pre-pool", "image", "min"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("feeds the pool")
    table.add_column("death is")
    problems = []
    for name, row in architectures.ARCHITECTURES.items():
        own_size, own_classes = (32, 10) if row.kind == "resnet" else (299, 1000)
        try:
            it = summarise(name, num_classes=num_classes or own_classes, image_size=image_size or own_size, width=width)
        except ValueError as error:
            problems += [f"{name}: {line}" for line in str(error).splitlines()]
            continue
        feeds = "no ReLU" if not it.relu_feeds_pool else "batch-norm, ReLU" if it.bn_before_pool_relu else "ReLU"
        counts = (f"{count:,}" for count in (it.params, it.params_without_gamma, it.macs, it.convolutions))
        trunk = "/".join(map(str, it.trunk_widths))
        sizes = (str(it.pre_pool_width), str(it.image_size), str(it.minimum_image_size))
        table.add_row(name, *counts, trunk, *sizes, feeds, it.death_event)
    if problems:
        raise InputError(problems)
    return table


class _ShapesOnly(TorchFunctionMode):
    """Passes over what keeps its input's shape, which torch is slow to find out of tensors without values."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in (F.batch_norm, F.relu) else func(*args, **(kwargs or {}))


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _multiply_adds(model: nn.Module, images: Tensor) -> dict[nn.Module, int]:
    """Multiply-adds of each convolution and linear layer in one evaluation of these images, tensors without values."""
    macs: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        macs[module] = output.numel() * weight[0].numel()

    handles = [
        module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    training = model.training
    try:
        with torch.no_grad(), _ShapesOnly():
            model.eval()(images)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return macs
