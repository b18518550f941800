"""A training step's time and memory: forward and backward pass, beside timm's of the same network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.architectures import ArchitectureName
from harness.models import build_model

TIMM: Mapping[ArchitectureName, str] = {
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "inception_resnet_v2_released": "inception_resnet_v2",
}
"""timm's name of an architecture that both have."""
OURS, AS_USED, LAST, OURS_COMPILED, LAST_COMPILED = (
    "harness",
    "timm as its users run it",
    "timm, channels-last",
    "harness, compiled",
    "timm, channels-last, compiled",
)
WARM = 3


@dataclass(frozen=True)
class StepTimes:
    """Forward and backward pass of one architecture, each way of running it in turns.

    seconds: medians by way. compiling: seconds until the first compiled step was done. peak: bytes beyond what was
    allocated before the network was built, on a GPU only.
    """

    network: ArchitectureName
    image_size: int
    batch_size: int
    seconds: dict[str, float]
    compiling: dict[str, float]
    peak: dict[str, int]

    def rows(self) -> list[dict[str, object]]:
        """A row for each way, with the ratio to timm's in channels-last."""
        other = self.seconds.get(LAST)
        return [
            {
                "network": self.network,
                "way": way,
                "pixels": self.image_size,
                "batch": self.batch_size,
                "ms": round(seconds * 1e3, 2),
                "of timm": None if other is None else round(seconds / other, 3),
                "peak MB": round(self.peak[way] / 1e6) if way in self.peak else None,
                "compiling s": round(self.compiling[way], 1) if way in self.compiling else None,
            }
            for way, seconds in self.seconds.items()
        ]


def measure_step(
    name: ArchitectureName,
    *,
    image_size: int,
    batch_size: int,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    compiled: bool = False,
    rounds: int = 15,
) -> StepTimes:
    """Time forward and backward pass of a network with 1000 classes, in turns with timm's where timm has it.

    compiled: the compiled networks instead of the others, with timm's in channels-last to compare with. Needs timm for
    the comparison; without it the network's own ways are timed.
    """
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    labels = torch.randint(1000, (batch_size,), device=device)
    steps: dict[str, Callable[[], None]] = {}
    compiling: dict[str, float] = {}
    peak: dict[str, int] = {}
    for way, build in _ways(name, image_size, compiled).items():
        held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        layout = torch.contiguous_format if way == AS_USED else torch.channels_last
        network: Callable[[Tensor], Tensor] = build().to(device, memory_format=layout)  # type: ignore[call-overload]
        if way in (OURS_COMPILED, LAST_COMPILED):
            network = torch.compile(network)
        steps[way] = _step(network, images.contiguous(memory_format=layout), labels, precision)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        steps[way]()
        wait(device)
        if way in (OURS_COMPILED, LAST_COMPILED):
            compiling[way] = time.perf_counter() - started
        for _ in range(WARM):
            steps[way]()
        if device.type == "cuda":
            peak[way] = torch.cuda.max_memory_allocated(device) - held
    seconds: dict[str, list[float]] = {way: [] for way in steps}
    for _ in range(rounds):
        for way, step in steps.items():
            wait(device)
            started = time.perf_counter()
            step()
            wait(device)
            seconds[way].append(time.perf_counter() - started)
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    return StepTimes(name, image_size, batch_size, medians, compiling, peak)


def wait(device: torch.device) -> None:
    """Let the host wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _ways(name: ArchitectureName, image_size: int, compiled: bool) -> dict[str, Callable[[], nn.Module]]:
    def ours() -> nn.Module:
        return build_model(name, num_classes=1000, image_size=image_size)

    def theirs() -> nn.Module:
        import timm

        network: nn.Module = timm.create_model(TIMM[name], num_classes=1000)
        return network

    both = name in TIMM and _has_timm()
    if compiled:
        return {OURS_COMPILED: ours, **({LAST: theirs, LAST_COMPILED: theirs} if both else {})}
    return {OURS: ours, **({AS_USED: theirs, LAST: theirs} if both else {})}


def _has_timm() -> bool:
    from importlib.util import find_spec

    return find_spec("timm") is not None


def _step(
    network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, precision: torch.dtype
) -> Callable[[], None]:
    parameters = list(network.parameters())  # type: ignore[attr-defined]

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
            loss = F.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]

    return step
