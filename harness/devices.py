"""CPU cores and GPUs: what this process may use, found without starting CUDA or importing torch."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Gpu:
    """What nvidia-smi says of a GPU: share of time that it worked, None if unknown; bytes of memory used and in all."""

    index: str
    uuid: str
    name: str
    busy: float | None
    used: int
    memory: int


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would show, by index or name, without starting CUDA.

    Where CUDA_VISIBLE_DEVICES is not set, those that nvidia-smi lists; of one that is divided (MIG) its instances, of
    which CUDA shows a process only the first, each by its name.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = [gpu.strip() for gpu in named.split(",")]
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))  # as CUDA reads it
    listed = _nvidia_smi("--list-gpus")
    if listed is not None:
        return _listed(listed)
    with contextlib.suppress(OSError):
        return [str(index) for index, _ in enumerate(Path("/proc/driver/nvidia/gpus").iterdir())]
    return []


def _listed(text: str) -> list[str]:
    """The GPUs of `nvidia-smi --list-gpus`: by index, or by the names of the instances that one is divided into."""
    found: list[str] = []
    for line in text.splitlines():
        if gpu := re.match(r"GPU (\d+):", line):
            found.append(gpu[1])
        elif instance := re.search(r"\(UUID: (MIG-[^)]+)\)", line):
            if found and found[-1].isdigit():  # the GPU that these are of
                found.pop()
            found.append(instance[1])
    return found


def gpus() -> list[Gpu]:
    """The GPUs of this machine that tell their memory, and how much they do now; none where there is no nvidia-smi."""
    text = _nvidia_smi(
        "--query-gpu=index,uuid,name,utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"
    )
    found = []
    for line in (text or "").splitlines():
        index, uuid, name, busy, used, memory = (part.strip() for part in line.split(","))
        if not (used.isdigit() and memory.isdigit()):  # one that shares the machine's
            continue
        share = float(busy) / 100 if busy.isdigit() else None  # a divided one does not say
        found.append(Gpu(index, uuid, name, share, int(used) << 20, int(memory) << 20))
    return found


def _nvidia_smi(*arguments: str) -> str | None:
    """What nvidia-smi prints; None where it is missing or fails."""
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
