"""A network ready to train: built, its weights drawn or read from a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, overload

import torch
from pydantic import ValidationError

from harness import architectures
from harness.config import ModelConfig
from harness.models.blocks import InceptionResNetBlock
from harness.models.initial import initialise
from harness.models.network import Network
from harness.models.weights import load_weights


@overload
def build_model(network: ModelConfig, *, num_classes: int, image_size: int) -> Network: ...


@overload
def build_model(network: str, *, num_classes: int, image_size: int, **fields: Any) -> Network: ...


def build_model(network: ModelConfig | str, *, num_classes: int, image_size: int, **fields: Any) -> Network:
    """Build a network, its weights drawn from torch's global generator, or those of the file `weights`.

    `network` is a resolved configuration, such as `RunConfig.model`, or a name of the table; `fields` are then the
    other fields of `harness.config.ModelConfig`. Raises ValueError with every problem.

    >>> model = build_model("inception_resnet_v2", num_classes=10, image_size=32, width=0.125, residual_scale=0.1)
    """
    if isinstance(network, ModelConfig) and fields:
        raise TypeError(f"{', '.join(fields)}: fields go with a name; a configuration has its own")
    config = network if isinstance(network, ModelConfig) else configured(network, image_size, **fields)
    if num_classes < 1:
        raise ValueError(f"num_classes: at least 1, not {num_classes}")
    model = Network(config, num_classes=num_classes, image_size=image_size)
    initialise(model, config.init or "xavier_uniform")
    _set_up_projections(model)
    if config.weights is not None:
        load_weights(model, config.weights)
    return model


def configured(name: str, image_size: int, **fields: Any) -> ModelConfig:
    """A resolved configuration from the name of a network and fields. Raises ValueError with every problem."""
    try:
        config = ModelConfig(name=name, **fields)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ValueError(_lines((".".join(map(str, each["loc"])), each["msg"]) for each in error.errors())) from None
    resolved, problems = architectures.resolve(config, image_size)
    if problems:
        raise ValueError(_lines(problems))
    return resolved


def _lines(problems: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{field}: {message}" for field, message in problems)


@torch.no_grad()
def _set_up_projections(model: Network) -> None:
    """Apply `up_projection_init` and `up_projection_bias`."""
    config = model.config
    factors = {None: 1.0, "default": 1.0, "zero": 0.0}
    init = config.up_projection_init
    factor = init if isinstance(init, float) else factors[init]
    for module in model.modules():
        if isinstance(module, InceptionResNetBlock):
            module.up_projection.weight.mul_(factor)
            if config.up_projection_bias == "frozen" and module.up_projection.bias is not None:
                module.up_projection.bias.requires_grad_(False)
