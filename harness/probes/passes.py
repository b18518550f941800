"""Forward passes that leave no trace, and several batches in one, each normalised by its own statistics.

Small batches cost mostly calls: read together they are as exact, and several times as fast.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

TOGETHER = 2**17
"""Pixels of images that are read in one pass where the batch allows it: 128 images of 32x32."""


def passes(images: Tensor, batch_size: int, training: bool, by_batch: bool) -> Iterator[tuple[int, int, int]]:
    """Start, stop and size of the batches of each forward pass over a set.

    In eval mode a pass is one batch. In train mode it is several of one size where they are normalised `by_batch`.
    """
    count, together = len(images), images_together(images)
    if not training:
        size = max(batch_size, together)
        yield from ((start, min(start + size, count), size) for start in range(0, count, size))
        return
    batches = math.ceil(count / batch_size)
    small, larger = divmod(count, batches)  # sizes as torch.tensor_split has them: they differ by one at most
    start = 0
    for size, number in ((small + 1, larger), (small, batches - larger)):
        most = max(1, together // size) if by_batch else 1
        end = start + number * size
        while start < end:
            stop = min(start + most * size, end)
            yield start, stop, size
            start = stop


@contextlib.contextmanager
def undisturbed(model: nn.Module, training: bool, buffers_rest: bool = False) -> Iterator[None]:
    """Forward passes that leave no trace: no gradients; dropout off; buffers, modes and random state as before.

    `training` chooses the statistics that batch-norm uses: the batch's, or its running ones. `buffers_rest` says that
    no forward pass will move a buffer, which saves keeping them. A SyncBatchNorm takes this process's statistics alone:
    others that make no such pass would be waited for without end.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()] if training and not buffers_rest else []
    gpus = torch.cuda.is_available()
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"} if gpus else ()
    changed, alone = [], []
    try:
        for module in model.modules():
            if training and isinstance(module, nn.SyncBatchNorm) and "forward" not in module.__dict__:
                module.__dict__["forward"] = MethodType(_BatchNorm.forward, module)
                alone.append(module)
            wanted = training and not isinstance(module, nn.modules.dropout._DropoutNd)
            if module.training != wanted:
                module.training = wanted
                changed.append(module)
        with torch.no_grad(), torch.random.fork_rng(list(devices)):
            yield
    finally:
        for module in changed:
            module.training = not module.training
        for norm in alone:
            norm.__dict__.pop("forward", None)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def unwrap(model: nn.Module) -> tuple[nn.Module, Any]:
    """The network inside compiled and data-parallel wrappers, and the process group, if there is one."""
    group = None
    while True:
        if isinstance(model, DistributedDataParallel):
            model, group = model.module, model.process_group
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model, group


@contextlib.contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Run a model that was compiled in place, as a whole or in parts, without its graphs, and add none to them."""
    compiled = [(each, each._compiled_call_impl) for each in model.modules() if each._compiled_call_impl is not None]
    try:
        for module, _ in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for module, implementation in compiled:
            module._compiled_call_impl = implementation


_UNOBSERVED: ContextVar[bool] = ContextVar("unobserved", default=False)


@contextlib.contextmanager
def unobserved() -> Iterator[None]:
    """Forward passes, with gradients or without, that are no steps of a training that is observed."""
    token = _UNOBSERVED.set(True)
    try:
        yield
    finally:
        _UNOBSERVED.reset(token)


def is_unobserved() -> bool:
    """Whether the pass that goes on is within `unobserved`."""
    return _UNOBSERVED.get()


def images_together(images: Tensor) -> int:
    """How many images of the size of these (N, C, H, W) are read in one pass, at least 1."""
    return max(1, TOGETHER // (images.shape[2] * images.shape[3]))


def can_normalise_by_batch(model: nn.Module) -> bool:
    """Whether every batch-norm of the model is torch's own over (N, C, H, W), which `normalised_by_batch` can split."""
    return all(type(module) is nn.BatchNorm2d for module in model.modules() if isinstance(module, _BatchNorm))


@contextlib.contextmanager
def normalised_by_batch(model: nn.Module, size: int) -> Iterator[None]:
    """Let one train-mode forward pass of k batches of `size` images, (k * size, C, H, W), give what k passes would.

    Every batch-norm takes its statistics from `size` samples at a time; its running ones stay as they are.

    Everything but batch-norm must treat samples independently. Equal up to rounding: convolutions pick their
    algorithms by the number of images. Every batch-norm must satisfy `can_normalise_by_batch`.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    try:
        for norm in norms:
            norm.__dict__["forward"] = _by_batch(norm, size)  # as `norm.forward = ` does, which takes ten times as long
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


def _by_batch(norm: nn.BatchNorm2d, size: int) -> Callable[[Tensor], Tensor]:
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
