"""A training as anybody has one, for examples: it knows nothing of instruments."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, batch_size: int = 32
) -> None:
    """Train for one epoch on images (N, C, H, W) and labels (N,), in random order."""
    model.train()
    for batch in torch.split(torch.randperm(len(images)), batch_size):
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
