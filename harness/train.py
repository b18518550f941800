"""The training of one run: one visible loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import distributed
from harness.architectures import AUX_LOSS_WEIGHT
from harness.config import ProbesConfig, RunConfig
from harness.data.dataset import Batches, Dataset, load_dataset
from harness.data.part import Part
from harness.models import build_model
from harness.optim.averaging import Average
from harness.optim.build import build_optimizer, update
from harness.optim.schedules import Length, learning_rate
from harness.outcome import SCREEN, Detector, Outcome
from harness.probes.cadence import Cadence
from harness.probes.definitions import UnitReading
from harness.probes.prepool import BATCH_READINGS, EVAL_BATCH, PrePool, undisturbed
from harness.probes.probe import Probe, observe
from harness.sinks import Histogram, Sink, StoreSink
from harness.store import RunDirectory

TIMELINES: tuple[Literal["batch", "probe"], ...] = ("batch", "probe")


def pick_device(name: str) -> torch.device:
    """The device that compute.device names; `auto` is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name, distributed.local_rank()) if name == "cuda" else torch.device(name)


@dataclass
class Trainee:
    """Everything of a run that changes with its steps, and its state for the checkpoint.

    eager, network: what a training step calls: the model, made data-parallel as configured; and that, compiled as
        configured.
    losses, errors: rings of the last losses and training errors, on the device, so that no step waits for the host.
    probe: reads the layers, None where the preset reads the pre-pool layer only.
    switch_step: when a two-phase warm-up ended, None while it has not.
    """

    config: RunConfig
    device: torch.device
    length: Length
    model: nn.Module
    eager: Callable[..., Any]
    network: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    average: Average | None
    probe: Probe | None
    losses: Tensor
    errors: Tensor
    detector: Detector
    step: int = 0
    elapsed: float = 0.0
    cumulative_lr: float = 0.0
    switch_step: int | None = None
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def new(cls, config: RunConfig, data: Dataset, device: torch.device) -> Trainee:
        """The run before its first step. Seeds torch's global generators; ranks differ in their dropout only.

        Raises ValueError for what the device or the number of processes cannot do.
        """
        train = config.train
        if train.precision == "tf32" and device.type != "cuda":
            raise ValueError("train.precision: tf32 needs a GPU; on the CPU: float32, bf16")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = train.precision == "tf32"
        torch.manual_seed(config.seed)
        settings = config.model.model_dump(exclude={"name", "weights_sha256"})
        model = build_model(
            config.model.name, num_classes=data.num_classes, image_size=config.data.image_size, **settings
        ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.manual_seed(config.seed + 1_000_003 * distributed.rank())
        eager: Callable[..., Any] = model
        if distributed.world_size() > 1:
            if train.sync_batch_norm:
                model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            eager = nn.parallel.DistributedDataParallel(model)
        averaging = train.averaging
        average = None if averaging.decay is None else Average(model, averaging.decay, averaging.bias_correction)
        optimizer = build_optimizer(model, config.optim)
        steps_per_epoch = len(data.train) // config.data.batch_size
        return cls(
            config=config,
            device=device,
            length=Length(train.steps or (train.epochs or 0) * steps_per_epoch, steps_per_epoch),
            model=model,
            eager=eager,
            network=torch.compile(eager) if train.compile else eager,
            optimizer=optimizer,
            average=average,
            probe=layer_probe(config.probes, eager, optimizer),
            losses=torch.zeros(train.check_every, device=device),
            errors=torch.ones(config.optim.warmup.window or 1, device=device),
            detector=Detector(event=model.death_event),
        )

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        return self.elapsed + time.perf_counter() - self.started

    @property
    def lr(self) -> float:
        """The learning rate of the coming update."""
        return learning_rate(self.config.optim, self.step, self.length, self.switch_step)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `restore` goes on bitwise on the CPU. Every rank must call it."""
        return {
            "run_id": self.config.run_id,
            "step": self.step,
            "elapsed": self.seconds,
            "cumulative_lr": self.cumulative_lr,
            "switch_step": self.switch_step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "losses": self.losses,
            "errors": self.errors,
            "detector": self.detector.state(),
            "probe": None if self.probe is None else self.probe.state(),
            "random": distributed.gather_objects(torch.get_rng_state()),
            "random_cuda": distributed.gather_objects(torch.cuda.get_rng_state()) if self._cuda else [],
        }

    @property
    def _cuda(self) -> bool:
        return self.device.type == "cuda"

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the state of a checkpoint."""
        self.step, self.elapsed, self.cumulative_lr = state["step"], state["elapsed"], state["cumulative_lr"]
        self.switch_step = state["switch_step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.restore(state["average"])
        self.losses.copy_(state["losses"])
        self.errors.copy_(state["errors"])
        self.detector = Detector.restore(state["detector"])
        if self.probe is not None and state["probe"] is not None:
            self.probe.restore(state["probe"])
        if distributed.rank() < len(state["random"]):
            torch.set_rng_state(state["random"][distributed.rank()])
        if self._cuda and distributed.rank() < len(state["random_cuda"]):
            torch.cuda.set_rng_state(state["random_cuda"][distributed.rank()])

    def autocast(self) -> torch.autocast:
        """The arithmetic of forward passes, in training and in readings alike."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.precision == "bf16")

    def forward_backward(self, images: Tensor, labels: Tensor, read: bool = False) -> Tensor:
        """Loss and gradients of a batch (N, 3, H, W), (N,), any auxiliary head's in it; gives the logits (N, classes).

        A step that is `read` runs uncompiled: the instruments stay out of the compiled graph.
        """
        self.optimizer.zero_grad(set_to_none=True)
        network = self.eager if read else self.network
        smoothing = self.config.train.label_smoothing
        logits: Tensor
        with self.autocast():
            if self.config.model.aux_head:
                logits, auxiliary = network(images, with_aux=True)
                loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
                loss = loss + AUX_LOSS_WEIGHT * F.cross_entropy(auxiliary, labels, label_smoothing=smoothing)
            else:
                logits = network(images)
                loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        self.losses[self.step % len(self.losses)] = loss.detach()
        if self.config.optim.warmup.name == "two_phase":
            self.errors[self.step % len(self.errors)] = (logits.detach().argmax(dim=1) != labels).float().mean()
        return logits

    def update(self) -> None:
        """One optimizer step at the schedule's learning rate."""
        lr = self.lr
        update(self.optimizer, self.config.optim, lr)
        if self.average is not None:
            self.average.update()
        self.cumulative_lr += lr
        self.step += 1

    def end_first_phase(self, error: float) -> None:
        """Let a two-phase warm-up end now if the running training error is low enough."""
        warmup = self.config.optim.warmup
        if warmup.threshold is not None and self.switch_step is None and self.step + 1 >= len(self.errors):
            self.switch_step = self.step if error < warmup.threshold else None

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with its averaged parameters, until the end of the block."""
        assert self.average is not None
        with self.average.in_place():
            yield


def train(config: RunConfig, run: RunDirectory, mirrors: Callable[[], Sequence[Sink]] = lambda: ()) -> Outcome:
    """Train a run to its outcome, from its checkpoint if it has one, into its claimed run directory.

    `mirrors` makes further sinks once the run is ready. Step s of a row means: after s updates of the weights. Under
    torchrun every rank calls this; each trains on its part of the batch, and only rank 0 writes.
    Raises Damaged for a checkpoint that cannot be used.
    """
    torch.set_num_threads(config.compute.threads)
    device = pick_device(config.compute.device)
    data = load_dataset(config.data, device)
    trainee = Trainee.new(config, data, device)
    checkpoint = run.checkpoint()
    if checkpoint is not None:
        trainee.restore(checkpoint)
    writes = distributed.rank() == 0
    sinks: list[Sink] = [StoreSink(run), *mirrors()] if writes else []
    outcome = None
    try:
        batches = data.batches(config.seed, trainee.step, distributed.rank(), distributed.world_size())
        with Watch(trainee, data, batches, sinks) as watch, batches:
            resumed_at = trainee.step
            while trainee.step < trainee.length.steps:
                if trainee.step % config.compute.checkpoint_every == 0 and trainee.step > resumed_at:
                    save(run, trainee)
                read = watch.before(trainee.step)
                images, labels = next(batches)
                logits = trainee.forward_backward(images, labels, read)
                if watch.ended(logits, labels):
                    break
                trainee.update()
                watch.updated()
            else:
                watch.end()
        save(run, trainee)
        if trainee.probe is not None and writes:
            run.write_timelines({name: trainee.probe.timeline(name).to_arrays() for name in TIMELINES})
        outcome = trainee.detector.outcome(trainee.step)
        if config.optim.warmup.name == "two_phase" and trainee.switch_step is None:
            outcome = outcome.noting("the two-phase warm-up never ended: its threshold was not reached")
    finally:
        for sink in reversed(sinks):  # the outcome file comes last
            sink.close(outcome)
    return outcome


def layer_probe(probes: ProbesConfig, model: Callable[..., Any], optimizer: torch.optim.Optimizer) -> Probe | None:
    """The instrument that a preset names, over the layers of a model."""
    if probes.preset == "prepool":
        return None
    cadence = Cadence(**probes.cadence.model_dump())
    return observe(
        cast(nn.Module, model), probes.preset, every=cadence, optimizer=optimizer, dormant_below=probes.dormant_below
    )


def save(run: RunDirectory, trainee: Trainee) -> None:
    """Write the checkpoint, once for all ranks."""
    state = trainee.state()
    if distributed.rank() == 0:
        run.write_checkpoint(state)


class Watch:
    """Checks for the outcome and rows of readings. Brings everything it needs to the host in one transfer a step."""

    def __init__(self, trainee: Trainee, data: Dataset, batches: Batches, sinks: Sequence[Sink]) -> None:
        self.trainee, self.data, self.batches, self.sinks = trainee, data, batches, sinks
        self.probe_images = data.probe_set()
        self.prepool = PrePool(
            trainee.model.pool,  # type: ignore[arg-type]
            trainee.config.probes.dormant_below,
            distributed.gather,
        )
        self.histogram = any(sink.wants_histogram for sink in sinks)
        self.seconds = {"check": 0.0, "probe": 0.0}
        self.known: UnitReading | None = None  # what a check at this step has read of the whole probe set
        self.row: dict[str, Any] = {}  # of a step that is not over: its update is still to be read
        self.histogram_of_row: Histogram | None = None
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Watch:
        self.stack.enter_context(self.prepool)
        if self.trainee.probe is not None:
            self.stack.enter_context(self.trainee.probe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)

    def check_is_due(self, step: int) -> bool:
        """Whether the outcome is checked at this step."""
        return step % self.trainee.config.train.check_every == 0

    def row_is_due(self, step: int) -> bool:
        """Whether this step gives a row."""
        return step % self.trainee.config.probes.every == 0

    def before(self, step: int) -> bool:
        """Prepare for the forward pass of `step`; True when it will be read."""
        self.known = None
        layers = self.trainee.probe is not None and self.trainee.probe.step(step)
        if self.check_is_due(step) or self.row_is_due(step):
            self.prepool.arm(self.histogram and self.row_is_due(step))
            return True
        return layers

    def ended(self, logits: Tensor, labels: Tensor) -> bool:
        """Look at the step after its forward and backward pass; True when the run is over."""
        trainee, step = self.trainee, self.trainee.step
        check, row = self.check_is_due(step), self.row_is_due(step)
        if not (check or row):
            return False
        hits = (logits.detach().argmax(dim=1) == labels).double().mean()
        signs = torch.stack([trainee.losses[step % len(trainee.losses)].double(), hits, trainee.errors.double().mean()])
        state = torch.stack([largest_parameter(trainee.model), *trainee.losses.double()])
        values = torch.cat([self.prepool.pending, distributed.mean(torch.cat([signs, state]))]).tolist()
        batch = self.prepool.take(values[: len(BATCH_READINGS)])
        loss, accuracy, error, parameter, *losses = values[len(BATCH_READINGS) :]
        ended = check and self.check(parameter, losses, batch["prepool/inert_share_batch"])
        if check:
            trainee.end_first_phase(error)
        if row or ended:
            readings = {"train/loss": loss, "train/accuracy": accuracy, **self.rates(), **batch}
            self.read(readings | self.batches.readings(), ended)
        if ended:
            self.updated()
        return ended

    def check(self, parameter: float, losses: list[float], inert_share: float) -> bool:
        """Feed the detector; True when the run is over."""
        started = time.perf_counter()
        trainee, detector = self.trainee, self.trainee.detector
        step, ring = trainee.step, len(losses)
        for past in range(max(0, step - ring + 1), step + 1):
            if not math.isfinite(losses[past % ring]):
                detector.see_divergence(past)
                return True
        if not math.isfinite(parameter):
            detector.see_divergence(step)
            return True
        dead = inert = False
        if inert_share >= SCREEN:
            with trainee.autocast():
                reading = self.prepool.read_until_alive(
                    trainee.model, self.probe_images, trainee.config.data.batch_size
                )
            self.known = reading
            dead, inert = distributed.agreed(
                (False, False) if reading is None else (bool(reading.dead.all()), bool(reading.inert.all()))
            )
        detector.see(step, dead=dead, inert=inert)
        self.seconds["check"] += time.perf_counter() - started
        return detector.happened and trainee.config.train.stop_at_death

    def end(self) -> None:
        """The last check and row, after the last update, where no training batch is left to read."""
        trainee = self.trainee
        self.known = None
        ring = len(trainee.losses)
        state = torch.stack([largest_parameter(trainee.model), *trainee.losses.double()])
        parameter, *losses = distributed.mean(state).tolist()
        losses[trainee.step % ring] = 0.0  # the ring's oldest loss; this step has none
        self.check(parameter, losses, inert_share=1.0)
        self.read(self.rates(), last=True)
        self.updated()

    def rates(self) -> dict[str, float]:
        """The coming update's learning rate, the sum of those before, and when a two-phase warm-up ended."""
        rates = {"optim/lr": self.trainee.lr, "optim/cumulative_lr": self.trainee.cumulative_lr}
        if self.trainee.switch_step is not None:
            rates["optim/switch_step"] = self.trainee.switch_step
        return rates

    def read(self, row: dict[str, Any], last: bool) -> None:
        """Begin the step's row, with the probe set and the held-out images where they are due."""
        if not self.sinks:
            return
        started = time.perf_counter()
        trainee, every = self.trainee, self.trainee.config.probes.probe_set_every
        if last or (trainee.step > 0 and trainee.step % every == 0):
            row |= self.read_sets("")
            if trainee.average is not None:
                with trainee.averaged():
                    row |= self.read_sets("_averaged")
        self.histogram_of_row = self.prepool.histogram() if self.histogram and "train/loss" in row else None
        self.row = row | {"step": trainee.step}
        self.seconds["probe"] += time.perf_counter() - started

    def updated(self) -> None:
        """Give the sinks the rows of the step that is over: what was read before its update, and by it."""
        probe = self.trainee.probe
        rows: dict[int, dict[str, Any]] = {}
        for row in [*([] if probe is None else probe.take()), self.row]:
            if row:
                rows.setdefault(row["step"], {}).update(row)
        clock = {"elapsed": self.trainee.seconds, **self.seconds}
        if probe is not None:
            clock["probe"] += probe.seconds
        for step, row in sorted(rows.items()):
            content = {name: value for name, value in row.items() if name not in ("step", "time/probe")}
            content |= {f"time/{name}": value for name, value in clock.items()}
            for sink in self.sinks:
                sink.row(step, content, self.histogram_of_row)
        self.row, self.histogram_of_row = {}, None

    def read_sets(self, suffix: str) -> dict[str, float]:
        """Readings of the probe set and the held-out images, their names ended by which parameters were read."""
        model, size = self.trainee.model, self.trainee.config.data.batch_size
        known = None if suffix else self.known
        with self.trainee.autocast():
            row = self.prepool.read_set(model, self.probe_images, size, known)
            row |= held_out_reading(model, self.data.held_out)
            if self.trainee.probe is not None and not suffix:
                self.trainee.probe.read_set(self.probe_images, batch_size=size, step=self.trainee.step)
        return {name + suffix: value for name, value in row.items()}


@torch.no_grad()
def largest_parameter(model: nn.Module) -> Tensor:
    """Largest absolute value of all parameters, a double on the device; NaN if one is NaN, so that one number tells."""
    return torch.stack(torch._foreach_norm(list(model.parameters()), ord=float("inf"))).max().double()


def held_out_reading(model: nn.Module, part: Part, batch_size: int = EVAL_BATCH) -> dict[str, float]:
    """Mean loss and accuracy on held-out images, with eval-mode batch-norm."""
    loss = torch.zeros((), dtype=torch.float64, device=part.labels.device)
    hits, count = torch.zeros_like(loss), 0  # a folder's images that cannot be read are left out
    with undisturbed(model, training=False):
        for images, labels in part.in_order(batch_size):
            logits = model(images)
            loss += F.cross_entropy(logits, labels, reduction="sum").double()
            hits += (logits.argmax(dim=1) == labels).sum()
            count += len(labels)
    mean_loss, accuracy = (torch.stack([loss, hits]) / count).tolist()
    return {"val/loss": mean_loss, "val/accuracy": accuracy}
