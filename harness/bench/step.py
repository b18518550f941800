"""A training step's time and memory: beside timm's of the same network, and of a small net beside torch's own ways."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.architectures import ArchitectureName
from harness.config import OptimConfig, RunConfig
from harness.models import build_model
from harness.models.layers import Conv2d
from harness.optim.build import build_optimizer, update

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
TORCH_CONVOLUTIONS, TORCH_UPDATE, TORCH_BOTH = (
    "torch's own convolutions",
    "torch's own RMSProp",
    "torch's own of both",
)
SMALL = {
    "model": {
        "name": "inception_resnet_v2",
        "width": 0.125,
        "repeats": [2, 4, 8],
        "stem": "small",
        "dropout_keep": 1.0,
    },
    "data": {"name": "digits", "image_size": 32, "batch_size": 8},
}
WARM = 3


@dataclass(frozen=True)
class StepTimes:
    """Steps of one network, each way of running it in turns.

    times: seconds of each step by way; the steps of a round stand at one place. compiling: seconds until the first
    compiled step was done. peak: bytes beyond what was allocated before the network was built, on a GPU only.
    """

    network: str
    image_size: int
    batch_size: int
    times: dict[str, list[float]]
    compiling: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> dict[str, float]:
        """Medians by way."""
        return {way: statistics.median(each) for way, each in self.times.items()}

    def ratio(self, way: str, other: str) -> tuple[float, float, float]:
        """The median of one way's time over another's in the same round, and its quartiles."""
        low, middle, high = statistics.quantiles(
            [one / two for one, two in zip(self.times[way], self.times[other], strict=True)], n=4
        )
        return middle, low, high

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
    return StepTimes(name, image_size, batch_size, _in_turns(steps, device, rounds), compiling, peak)


def measure_small_step(rounds: int = 60) -> StepTimes:
    """Time whole training steps on the CPU, update and all, of a small net in four ways, in turns.

    The net is Inception-ResNet-v2 at an eighth of its width with 2, 4 and 8 blocks, on 32x32 images in batches of 8;
    the ways are the harness's own convolutions or torch's, and RMSProp as TF's or torch's.
    """
    cpu = torch.device("cpu")
    config = RunConfig.model_validate(SMALL)
    images = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (8,))
    steps: dict[str, Callable[[], None]] = {}
    for way, own_convolutions, own_update in (
        (OURS, True, True),
        (TORCH_CONVOLUTIONS, False, True),
        (TORCH_UPDATE, True, False),
        (TORCH_BOTH, False, False),
    ):
        network = build_model(config.model, num_classes=10, image_size=32).to(memory_format=torch.channels_last)
        if not own_convolutions:
            for module in network.modules():
                if isinstance(module, Conv2d):
                    module.__class__ = nn.Conv2d  # type: ignore[assignment]
        optim = config.optim.model_copy(update={} if own_update else {"name": "rmsprop_torch"})
        steps[way] = _training_step(network, images, labels, optim)
        for _ in range(WARM):
            steps[way]()
    words = "Inception-ResNet-v2, width 1/8, 2/4/8 blocks"
    return StepTimes(words, 32, 8, _in_turns(steps, cpu, rounds))


def _in_turns(steps: Mapping[str, Callable[[], None]], device: torch.device, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {way: [] for way in steps}
    for _ in range(rounds):
        for way, step in steps.items():
            wait(device)
            started = time.perf_counter()
            step()
            wait(device)
            times[way].append(time.perf_counter() - started)
    return times


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


def _training_step(network: nn.Module, images: Tensor, labels: Tensor, optim: OptimConfig) -> Callable[[], None]:
    optimizer = build_optimizer(network, optim)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        update(optimizer, optim, 1e-4)

    return step
