"""The optimizer that a configuration names, and what else belongs to one update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from harness.config import OptimConfig
from harness.optim.rmsprop_tf import RMSPropTF


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over the model's trained parameters.

    One group for each pair of decay (`weight_decay_on`) and factor on the learning rate (`lr_factor`, of up-projections
    and of their biases).
    """
    _leave_dynamo_out()
    coupled = optim.weight_decay_mode == "l2"
    groups = [
        {
            "params": parameters,
            "lr_factor": factor,
            "weight_decay": optim.weight_decay if decays and coupled else 0.0,
            "decoupled_decay": optim.weight_decay if decays and not coupled else 0.0,
        }
        for (decays, factor), parameters in _grouped(model, optim).items()
    ]
    if optim.name == "adam":
        assert optim.betas is not None and optim.eps is not None
        return torch.optim.Adam(groups, optim.lr, optim.betas, optim.eps, foreach=True)
    assert optim.momentum is not None
    if optim.name == "sgd":
        return torch.optim.SGD(groups, optim.lr, optim.momentum, foreach=True)
    assert optim.decay is not None and optim.eps is not None
    if optim.name == "rmsprop_torch":
        return torch.optim.RMSprop(
            groups, optim.lr, alpha=optim.decay, eps=optim.eps, momentum=optim.momentum, foreach=True
        )
    return RMSPropTF(groups, optim.lr, optim.decay, optim.momentum, optim.eps)


def _grouped(model: nn.Module, optim: OptimConfig) -> dict[tuple[bool, float], list[nn.Parameter]]:
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, module in model.named_modules():
        up_projection = name.split(".")[-1] == "up_projection"
        for kind, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            normalises = isinstance(module, nn.modules.batchnorm._BatchNorm)
            decays = {
                "weights": parameter.ndim > 1,
                "weights_and_biases": parameter.ndim > 1 or (kind == "bias" and not normalises),
                "all": True,
            }[optim.weight_decay_on]
            factor = 1.0
            if up_projection:
                factor = optim.up_projection_bias_lr if kind == "bias" else optim.up_projection_lr
            groups.setdefault((decays, factor), []).append(parameter)
    return groups


def update(optimizer: torch.optim.Optimizer, optim: OptimConfig, lr: float) -> None:
    """One update at a learning rate: clip the gradients, decay what decays apart from them, step."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
    if optim.clip_value is not None:
        clip_grad_value_(parameters, optim.clip_value, foreach=True)
    if optim.clip_norm is not None:
        clip_grad_norm_(parameters, optim.clip_norm, foreach=True)
    for group in groups:
        group["lr"] = lr * group["lr_factor"]
        if group["decoupled_decay"]:
            with torch.no_grad():
                torch._foreach_mul_(group["params"], 1 - group["lr"] * group["decoupled_decay"])
    optimizer.step()


def _leave_dynamo_out() -> None:
    """Keep torch.optim from importing torch._dynamo at its first call.

    It does so only to keep a compiler away from these methods, and it would cost each worker 150 MB and over a second.
    """
    for method in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        plain = getattr(getattr(torch.optim.Optimizer, method), "__wrapped__", None)
        if plain is not None:
            plain.__dynamo_disable = plain  # where torch caches the guarded method
