"""CPU cores and GPUs: what this process may use, found without starting CUDA or importing torch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness import distributed

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """The device that compute.device names; `auto` is the GPU where there is one. Imports torch."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name, distributed.local_rank()) if name == "cuda" else torch.device(name)


def cpu_count() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or what its control group leaves of them."""
    import psutil

    total: int = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):  # no control groups, or `max`
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would show, by index or name, without starting CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    with contextlib.suppress(OSError):
        return [str(index) for index, _ in enumerate(Path("/proc/driver/nvidia/gpus").iterdir())]
    return []
