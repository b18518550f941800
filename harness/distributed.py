"""The ranks of a data-parallel run that torch's launcher started; a single process is rank 0 of 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Number of processes that torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Be one of the ranks until the end of the block: gloo on the CPU, nccl on GPUs."""
    if world_size() == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(x: Tensor) -> Tensor:
    """The tensors (N, ...) of all ranks, (world * N, ...), in order of rank."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x.contiguous()) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def share(batch: Tensor) -> Tensor:
    """This rank's part of a batch (N, ...): the rank-th of as many equal pieces as there are ranks."""
    size = batch.shape[0] // world_size()
    return batch[rank() * size : (rank() + 1) * size]


def mean(x: Tensor) -> Tensor:
    """The mean over ranks."""
    if world_size() > 1:
        dist.all_reduce(x)
        x = x / world_size()
    return x


def agreed(value: Any) -> Any:
    """Rank 0's value of a plain object, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """The plain objects of all ranks, in order of rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values
