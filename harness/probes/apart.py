"""Several batches in one forward pass, each normalised by its own statistics: small batches cost mostly calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

TOGETHER = 2**17
"""Pixels of images that are read in one pass where the batch allows it: 128 images of 32x32."""


def images_together(images: Tensor) -> int:
    """How many images of the size of these (N, C, H, W) are read in one pass, at least 1."""
    return max(1, TOGETHER // (images.shape[2] * images.shape[3]))


def can_normalise_apart(model: nn.Module) -> bool:
    """Whether every batch-norm of the model is torch's own over (N, C, H, W), which `normalised_apart` can split."""
    return all(type(module) is nn.BatchNorm2d for module in model.modules() if isinstance(module, _BatchNorm))


@contextlib.contextmanager
def normalised_apart(model: nn.Module, size: int) -> Iterator[None]:
    """Let one train-mode forward pass of k batches of `size` images, (k * size, C, H, W), give what k passes would.

    Every batch-norm takes its statistics from `size` samples at a time; its running ones stay as they are.

    Everything but batch-norm must treat samples independently. Equal up to rounding: convolutions pick their
    algorithms by the number of images. Every batch-norm must satisfy `can_normalise_apart`.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    try:
        for norm in norms:
            norm.__dict__["forward"] = _apart(norm, size)  # as `norm.forward = ` does, which takes ten times as long
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


def _apart(norm: nn.BatchNorm2d, size: int) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        batches = count // size
        if batches == 1:
            return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        # (k * B, C, H, W) -> (B, k * C, H, W): each batch's channels become channels of their own; C stays innermost
        split = x.view(batches, size, channels, height, width).permute(1, 3, 4, 0, 2)
        wide = split.reshape(size, height, width, batches * channels).permute(0, 3, 1, 2)
        weight = None if norm.weight is None else norm.weight.repeat(batches)
        bias = None if norm.bias is None else norm.bias.repeat(batches)
        out = F.batch_norm(wide, None, None, weight, bias, training=True, eps=norm.eps)
        out = out.permute(0, 2, 3, 1).reshape(size, height, width, batches, channels).permute(3, 0, 1, 2, 4)
        return out.reshape(count, height, width, channels).permute(0, 3, 1, 2)

    return forward
