"""The optimizer that a configuration names."""

from __future__ import annotations

import torch
from torch import nn

from harness.config import OptimConfig
from harness.optim.rmsprop_tf import RMSPropTF


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over the model's trained parameters; weight decay falls on weights, not on biases or batch-norm."""
    _leave_dynamo_out()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if optim.name == "rmsprop_tf":
        assert optim.decay is not None and optim.momentum is not None and optim.eps is not None
        return RMSPropTF(groups, optim.lr, optim.decay, optim.momentum, optim.eps)
    if optim.name == "sgd":
        assert optim.momentum is not None
        return torch.optim.SGD(groups, optim.lr, optim.momentum, foreach=True)
    assert optim.betas is not None and optim.eps is not None
    return torch.optim.Adam(groups, optim.lr, optim.betas, optim.eps, foreach=True)


def _leave_dynamo_out() -> None:
    """Keep torch.optim from importing torch._dynamo at its first call.

    It does so only to keep a compiler away from these methods, and it would cost each worker 150 MB and over a second.
    """
    for method in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        plain = getattr(getattr(torch.optim.Optimizer, method), "__wrapped__", None)
        if plain is not None:
            plain.__dynamo_disable = plain  # where torch caches the guarded method
