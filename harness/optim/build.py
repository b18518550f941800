"""The optimizer that a configuration names."""

from __future__ import annotations

import torch
from torch import nn

from harness.config import OptimConfig
from harness.optim.rmsprop_tf import RMSPropTF


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over the model's trained parameters; weight decay falls on weights, not on biases or batch-norm."""
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
