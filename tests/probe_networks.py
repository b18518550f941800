"""Small networks that the tests of the instruments share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualSum(nn.Module):
    """skip + scale * branch."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        return skip + self.scale * branch


class Block(nn.Module):
    """relu(x + scale * up_projection(relu(bn(conv(x)))))."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.ReLU()
        self.up_projection = nn.Conv2d(width, width, 1)
        self.residual_sum = ResidualSum(scale)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.residual_sum(x, self.up_projection(self.inner(self.norm(self.conv(x))))))
        return out


class Net(nn.Module):
    """A stem, residual blocks, the pool, dropout, and a classifier."""

    def __init__(self, blocks: int = 3, width: int = 8, scale: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.blocks = nn.Sequential(*[Block(width, scale) for _ in range(blocks)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(width, 4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(self.blocks(self.stem(x))))
        return out

    def block(self, index: int) -> Block:
        block = self.blocks[index]
        assert isinstance(block, Block)
        return block


@torch.no_grad()
def set_bias(layer: nn.Module, value: float, units: slice = slice(None)) -> None:
    bias = layer.bias
    assert isinstance(bias, Tensor)
    bias[units] = value


class Train:
    """A net, its optimizer, and steps on random images; everything follows from the seed."""

    def __init__(self, model: nn.Module | None = None, seed: int = 0, lr: float = 0.05) -> None:
        torch.manual_seed(seed)
        self.model = Net() if model is None else model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr, momentum=0.9)
        self.call: nn.Module = self.model

    @property
    def net(self) -> Net:
        assert isinstance(self.model, Net)
        return self.model

    def images(self, count: int = 8) -> Tensor:
        return torch.randn(count, 3, 6, 6).contiguous(memory_format=torch.channels_last)

    def backward(self, images: Tensor | None = None) -> None:
        logits = self.call(self.images() if images is None else images)
        nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()  # type: ignore[no-untyped-call]

    def step(self, images: Tensor | None = None) -> None:
        self.optimizer.zero_grad()
        self.backward(images)
        self.optimizer.step()

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()
