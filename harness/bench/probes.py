"""What the instruments cost: steps that read and steps that do not, alternating in one process.

Beside the presets of `harness.probes` stand two ways in which activations are watched elsewhere: fastai's
`ActivationStats`, three `.item()` a layer, and a hook that keeps every activation until the step is over. The checks
for the outcome, which belong to the training, are measured the same way, and so are the readings of the probe set and
of the curvature, which cost steps and are made a few times a run.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import PROBE_SET, RunConfig
from harness.models import build_model
from harness.optim.build import build_optimizer
from harness.probes import Cadence, observe
from harness.probes.curvature import gradient_noise, sharpness
from harness.probes.prepool import PrePool
from harness.probes.readings import READINGS, SET_READINGS
from harness.probes.selection import select
from harness.training.reading import largest_norm

PROBE_CADENCE = Cadence().every
TARGETS = {"prepool": 0.01, "blocks": 0.02}
"""Largest share of a step that a preset may cost at the default cadence."""
TARGET_EVERY_STEP = {"blocks": 0.08}


@dataclass(frozen=True)
class Cost:
    """One way of watching, at its cadence.

    plain, firing: seconds of a step that is not read and of one that is, medians. kept: bytes of activations that are
    held until the step is over. extra: (firing - plain) / plain of each pair of neighbouring steps.
    """

    name: str
    every: int
    plain: float
    firing: float
    kept: int
    extra: tuple[float, ...]

    def share(self, every: int | None = None) -> tuple[float, float]:
        """Share of a plain step that reading costs at a cadence, and half the width of its 95 % interval (Student)."""
        mean, count = statistics.fmean(self.extra), len(self.extra)
        half = stats.t.ppf(0.975, count - 1) * statistics.stdev(self.extra) / math.sqrt(count)
        return mean / (every or self.every), float(half) / (every or self.every)


@dataclass(frozen=True)
class ProbeCosts:
    """The costs of all ways of watching one network's training."""

    network: str
    costs: tuple[Cost, ...]

    def __str__(self) -> str:
        lines = [
            self.network,
            f"{'':24}{'plain':>11}{'firing':>11}{'every step':>18}{'at its cadence':>24}{'kept':>10}",
        ]
        for cost in self.costs:
            dense, dense_half = cost.share(1)
            share, half = cost.share()
            target = TARGETS.get(cost.name)
            words = "" if target is None else f"  target {target:.0%}"
            if cost.name in TARGET_EVERY_STEP:
                words += f", every step {TARGET_EVERY_STEP[cost.name]:.0%}"
            lines.append(
                f"{cost.name:24}{cost.plain * 1e3:8.1f} ms{cost.firing * 1e3:8.1f} ms"
                f"{dense:+10.1%} ± {dense_half:5.1%}{share:+9.2%} ± {half:5.2%} (1/{cost.every:3d})"
                f"{cost.kept / 1e6:7.1f} MB{words}"
            )
        return "\n".join(lines)


def bench_probes(config: RunConfig, pairs: int = 60) -> ProbeCosts:
    """Measure every way of watching on the network, optimizer and batch size of a run, on random images.

    pairs: pairs of a plain and a firing step for each way, in turns of which comes first; at least 2.
    """
    if pairs < 2:
        raise ValueError(f"pairs is {pairs}; expected at least 2 for an interval")
    torch.set_num_threads(config.compute.threads)
    loop = _Loop(config)
    for _ in range(3):  # memory, optimizer state and libraries settle
        loop.step()
    every_set, every_curvature = config.probes.probe_set_every, config.probes.curvature.every
    ways: dict[str, tuple[int, Callable[[_Loop], contextlib.AbstractContextManager[_Way]]]] = {
        "prepool": (PROBE_CADENCE, lambda loop: _preset(loop, "prepool")),
        "blocks": (PROBE_CADENCE, lambda loop: _preset(loop, "blocks")),
        "full": (PROBE_CADENCE, lambda loop: _preset(loop, "full")),
        "fastai's three .item()": (PROBE_CADENCE, _three_items),
        "keeping activations": (PROBE_CADENCE, _keeping),
        "outcome checks": (config.train.check_every, _checks),
    }
    costs = [_measure(loop, name, every, way, pairs) for name, (every, way) in ways.items()]
    rare: dict[str, tuple[int, Callable[[_Loop], contextlib.AbstractContextManager[_Way]]]] = {
        "probe set, prepool": (every_set, _set_of_prepool),
        "probe set, blocks": (every_set, lambda loop: _set_of_layers(loop, SET_READINGS)),
        "  its layers alone": (every_set, lambda loop: _set_of_layers(loop, ())),
        "sharpness": (every_curvature, lambda loop: _sharpness(loop, config.probes.curvature.products)),
        "gradient noise": (every_curvature, _noise),
    }
    few = max(2, pairs // 10)  # each takes as long as many steps
    costs += [_measure(loop, name, every, way, few) for name, (every, way) in rare.items()]
    model, data = config.model, config.data
    network = (
        f"{model.name}, width {model.width:g}, {data.image_size}x{data.image_size}, batch {data.batch_size}, "
        f"{loop.device.type}, {config.compute.threads} thread(s), {pairs} pairs"
    )
    return ProbeCosts(network, tuple(costs))


class _Loop:
    """The training whose steps are timed."""

    def __init__(self, config: RunConfig) -> None:
        cuda = config.compute.device != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda" if cuda else "cpu")
        torch.manual_seed(config.seed)
        size, classes = config.data.image_size, 10
        network = config.model.model_copy(update={"weights": None, "weights_sha256": None})
        self.model = build_model(network, num_classes=classes, image_size=size).to(
            self.device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.model, config.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # every step is the same work: nothing dies or overflows on random images
        shape = (config.data.batch_size, 3, size, size)
        self.images = torch.randn(shape, device=self.device).contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(classes, shape[:1], device=self.device)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(self.images), self.labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def probe_set(self) -> Tensor:
        shape = (PROBE_SET, *self.images.shape[1:])
        return torch.randn(shape, device=self.device).contiguous(memory_format=torch.channels_last)

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds that `work` takes; of one thread on the CPU its own, whatever else the machine does meanwhile."""
        clock = time.process_time if self.device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
        self._wait()
        started = clock()
        work()
        self._wait()
        return clock() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass
class _Way:
    """A way of watching that is installed: what precedes a step, plain or firing, and what follows a firing one."""

    before: Callable[[bool], object]
    after: Callable[[], object]
    kept: int = 0


def _measure(
    loop: _Loop, name: str, every: int, way: Callable[[_Loop], contextlib.AbstractContextManager[_Way]], pairs: int
) -> Cost:
    with way(loop) as installed:

        def step(fires: bool) -> None:
            installed.before(fires)
            loop.step()
            if fires:
                installed.after()

        for fires in (True, False):
            step(fires)
        plain: list[float] = []
        firing: list[float] = []
        for pair in range(pairs):
            for fires in (False, True) if pair % 2 else (True, False):
                (firing if fires else plain).append(loop.seconds(lambda fires=fires: step(fires)))  # type: ignore[misc]
        typical = statistics.median(plain)
        extra = tuple((on - off) / typical for on, off in zip(firing, plain, strict=True))
        return Cost(name, every, typical, statistics.median(firing), installed.kept, extra)


@contextlib.contextmanager
def _preset(loop: _Loop, preset: str) -> Iterator[_Way]:
    cadence = Cadence(every=2, early=False, burst_jump=None)
    with observe(loop.model, preset, every=cadence, optimizer=loop.optimizer) as probe:
        steps = iter(range(10**9))

        def before(fires: bool) -> None:
            while probe.step(next(steps)) is not fires:
                pass

        yield _Way(before, probe.take)


@contextlib.contextmanager
def _hooked(loop: _Loop, read: Callable[[Tensor], object]) -> Iterator[Callable[[bool], None]]:
    """Call `read`, in the steps that fire, with the activations that the preset `blocks` reads."""
    fires = False

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if fires:
            read(output.detach())

    def hook_sum(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if fires:
            for x in (*inputs, output):
                read(x.detach())

    def arm(value: bool) -> None:
        nonlocal fires
        fires = value

    points = [point for point in select(loop.model, "blocks").points if point.side != "input"]
    handles = [point.module.register_forward_hook(hook_sum if point.side == "sum" else hook) for point in points]
    try:
        yield arm
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _three_items(loop: _Loop) -> Iterator[_Way]:
    """fastai's ActivationStats: mean, standard deviation and share near zero, each brought to the host at once."""
    rows: list[tuple[float, float, float]] = []

    def read(x: Tensor) -> None:
        rows.append((x.mean().item(), x.std().item(), (x <= 0.05).long().sum().item() / x.numel()))

    with _hooked(loop, read) as arm:
        yield _Way(arm, rows.clear)


@contextlib.contextmanager
def _keeping(loop: _Loop) -> Iterator[_Way]:
    """Activations are kept until the step is over and then read on the host."""
    kept: list[Tensor] = []

    def read() -> None:
        way.kept = sum(x.numel() * x.element_size() for x in kept)
        for x in kept:
            values = x.float().cpu().numpy()
            values.mean(), values.std(), (values == 0).all(axis=(0, 2, 3)).sum()
        kept.clear()

    with _hooked(loop, kept.append) as arm:
        way = _Way(arm, read)
        yield way


@contextlib.contextmanager
def _set_of_prepool(loop: _Loop) -> Iterator[_Way]:
    """The pre-pool readings of a probe set: dead, inert and tau-dormant units, and the rank of the features."""
    images = loop.probe_set()
    with PrePool(loop.model.get_submodule("pool")) as prepool:
        yield _Way(lambda fires: None, lambda: prepool.read_set(loop.model, images, len(loop.images)))


@contextlib.contextmanager
def _set_of_layers(loop: _Loop, of_set: Sequence[str]) -> Iterator[_Way]:
    """Every layer of the preset `blocks` on a probe set, with such of the readings that only a set has."""
    images = loop.probe_set()
    readings = [name for name in READINGS if name not in SET_READINGS or name in of_set]
    with observe(loop.model, "blocks", every=10**9, readings=readings) as probe:

        def after() -> None:
            probe.read_set(images, batch_size=len(loop.images))
            probe.take()

        yield _Way(lambda fires: None, after)


@contextlib.contextmanager
def _sharpness(loop: _Loop, products: int) -> Iterator[_Way]:
    """As many Hessian-vector products as a reading may take."""
    batch = loop.images, loop.labels
    yield _Way(
        lambda fires: None,
        lambda: sharpness(loop.model, _loss, batch, loop.optimizer, products=products, tolerance=0),
    )


@contextlib.contextmanager
def _noise(loop: _Loop) -> Iterator[_Way]:
    half = (loop.images, loop.labels)
    yield _Way(lambda fires: None, lambda: gradient_noise(loop.model, _loss, (half, half), len(loop.images)))


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


@contextlib.contextmanager
def _checks(loop: _Loop) -> Iterator[_Way]:
    """A check for the outcome while fewer than 90 % of the units are dead: the pre-pool reading of the batch."""
    pool, parameters = loop.model.get_submodule("pool"), list(loop.model.parameters())
    with PrePool(pool) as prepool:

        def after() -> None:
            torch.cat([prepool.pending, largest_norm(parameters)[None]]).tolist()

        yield _Way(lambda fires: prepool.arm() if fires else None, after)
