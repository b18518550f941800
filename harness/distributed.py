"""The ranks of a data-parallel run that torch's launcher started; a single process is rank 0 of 1.

torch is imported by what needs it, so that a sweep's main process can ask whether it is a rank.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def world_size() -> int:
    """Number of processes that torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def local_rank() -> int:
    """This process's number on its machine: which of the GPUs it uses."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Be one of the ranks until the end of the block: gloo on the CPU, nccl on GPUs."""
    if world_size() == 1:
        yield
        return
    from torch import distributed as dist

    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(x: Tensor) -> Tensor:
    """The tensors (N, ...) of all ranks, (world * N, ...), in order of rank."""
    if world_size() == 1:
        return x
    import torch
    from torch import distributed as dist

    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def mean(x: Tensor) -> Tensor:
    """The mean over ranks."""
    if world_size() == 1:
        return x
    from torch import distributed as dist

    total = x.clone()
    dist.all_reduce(total)
    return total / world_size()


def agreed(value: Any) -> Any:
    """Rank 0's value of a plain object, on every rank."""
    if world_size() == 1:
        return value
    from torch import distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """The plain objects of all ranks, in order of rank."""
    if world_size() == 1:
        return [value]
    from torch import distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values
