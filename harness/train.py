"""The training of one run: one visible loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.architectures import AUX_LOSS_WEIGHT
from harness.config import RunConfig
from harness.data.dataset import BatchOrder, Dataset, Images, load_dataset
from harness.models import build_model
from harness.optim import build_optimizer, learning_rate
from harness.outcome import SCREEN, Detector, Outcome
from harness.probes.prepool import BATCH_READINGS, PrePool, undisturbed
from harness.sinks import Sink, StoreSink
from harness.store import RunDirectory

INERT = BATCH_READINGS.index("inert_units_batch")


def pick_device(name: str) -> torch.device:
    """The device that compute.device names; `auto` is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@dataclass
class Trainee:
    """Everything of a run that changes with its steps, and its state for the checkpoint.

    losses: ring of the last losses, on the device, so that no step waits for the host.
    """

    config: RunConfig
    device: torch.device
    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: Tensor
    detector: Detector
    step: int = 0
    elapsed: float = 0.0
    cumulative_lr: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def new(cls, config: RunConfig, num_classes: int, device: torch.device) -> Trainee:
        """The run before its first step. Seeds torch's global generators."""
        torch.manual_seed(config.seed)
        settings = config.model.model_dump(exclude={"name", "weights_sha256"})
        model = build_model(
            config.model.name, num_classes=num_classes, image_size=config.data.image_size, **settings
        ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = build_optimizer(model, config.optim)
        losses = torch.zeros(config.train.check_every, device=device)
        return cls(config, device, model, optimizer, losses, Detector(event=model.death_event))

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        return self.elapsed + time.perf_counter() - self.started

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `restore` goes on bitwise on the CPU."""
        return {
            "run_id": self.config.run_id,
            "step": self.step,
            "elapsed": self.seconds,
            "cumulative_lr": self.cumulative_lr,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "detector": self.detector.state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the state of a checkpoint."""
        self.step, self.elapsed, self.cumulative_lr = state["step"], state["elapsed"], state["cumulative_lr"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses.copy_(state["losses"])
        self.detector = Detector.restore(state["detector"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])

    def forward_backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss and gradients of a batch (N, 3, H, W), (N,), any auxiliary head's in it; gives the logits (N, classes)."""
        self.optimizer.zero_grad(set_to_none=True)
        logits: Tensor
        if self.config.model.aux_head:
            logits, auxiliary = self.model(images, with_aux=True)
            loss = F.cross_entropy(logits, labels) + AUX_LOSS_WEIGHT * F.cross_entropy(auxiliary, labels)
        else:
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.losses[self.step % len(self.losses)] = loss.detach()
        return logits

    def update(self) -> None:
        """One optimizer step at the schedule's learning rate."""
        lr = learning_rate(self.config.optim, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.cumulative_lr += lr
        self.step += 1


def train(config: RunConfig, run: RunDirectory, mirrors: Callable[[], Sequence[Sink]] = lambda: ()) -> Outcome:
    """Train a run to its outcome, from its checkpoint if it has one, into its claimed run directory.

    `mirrors` makes further sinks once the run is ready. Step s of a row means: after s updates of the weights.
    Raises Damaged for a checkpoint that cannot be used.
    """
    torch.set_num_threads(config.compute.threads)
    device = pick_device(config.compute.device)
    data = load_dataset(config.data, device)
    trainee = Trainee.new(config, data.num_classes, device)
    checkpoint = run.checkpoint()
    if checkpoint is not None:
        trainee.restore(checkpoint)
    sinks: list[Sink] = [StoreSink(run), *mirrors()]
    outcome = None
    order = BatchOrder(len(data.train), config.data.batch_size, config.seed, device)
    try:
        with Watch(trainee, data, sinks) as watch:
            resumed_at = trainee.step
            while trainee.step < config.train.steps:
                if trainee.step % config.compute.checkpoint_every == 0 and trainee.step > resumed_at:
                    run.write_checkpoint(trainee.state())
                watch.before(trainee.step)
                images, labels = data.train[order[trainee.step]]
                logits = trainee.forward_backward(images, labels)
                if watch.ended(logits, labels):
                    break
                trainee.update()
            else:
                watch.end()
        run.write_checkpoint(trainee.state())
        outcome = trainee.detector.outcome(trainee.step)
    finally:
        for sink in reversed(sinks):  # the outcome file comes last
            sink.close(outcome)
    return outcome


class Watch:
    """Checks for the outcome and rows of readings. Brings everything it needs to the host in one transfer a step."""

    def __init__(self, trainee: Trainee, data: Dataset, sinks: Sequence[Sink]) -> None:
        self.trainee, self.data, self.sinks = trainee, data, sinks
        self.probe_images = data.probe_set()
        self.prepool = PrePool(trainee.model.pool, trainee.config.probes.dormant_below)  # type: ignore[arg-type]
        self.histogram = any(sink.wants_histogram for sink in sinks)
        self.seconds = {"check": 0.0, "probe": 0.0}

    def __enter__(self) -> Watch:
        self.prepool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.prepool.__exit__(*error)

    def check_is_due(self, step: int) -> bool:
        """Whether the outcome is checked at this step."""
        return step % self.trainee.config.train.check_every == 0

    def row_is_due(self, step: int) -> bool:
        """Whether this step gives a row."""
        return step % self.trainee.config.probes.every == 0

    def before(self, step: int) -> None:
        """Prepare for the forward pass of `step`."""
        if self.check_is_due(step) or self.row_is_due(step):
            self.prepool.arm(self.histogram and self.row_is_due(step))

    def ended(self, logits: Tensor, labels: Tensor) -> bool:
        """Look at the step after its forward and backward pass; True when the run is over."""
        step = self.trainee.step
        check, row = self.check_is_due(step), self.row_is_due(step)
        if not (check or row):
            return False
        hits = (logits.detach().argmax(dim=1) == labels).double().mean()
        signs = [self.trainee.losses[step % len(self.trainee.losses)].double(), hits]
        if check:
            signs += [largest_parameter(self.trainee.model), *self.trainee.losses.double()]
        values = torch.cat([self.prepool.pending, torch.stack(signs)]).tolist()
        readings, (loss, accuracy) = values[: len(BATCH_READINGS)], values[len(BATCH_READINGS) :][:2]
        ended = False
        if check:
            parameter, *losses = values[len(BATCH_READINGS) + 2 :]
            ended = self.check(parameter, losses, self.prepool.take(readings)["prepool/inert_share_batch"])
        if row or ended:
            self.write(
                {"train/loss": loss, "train/accuracy": accuracy, **self.rates(), **self.prepool.take(readings)}, ended
            )
        return ended

    def check(self, parameter: float, losses: list[float], inert_share: float) -> bool:
        """Feed the detector; True when the run is over."""
        started = time.perf_counter()
        trainee, detector = self.trainee, self.trainee.detector
        step, ring = trainee.step, len(losses)
        for past in range(max(0, step - ring + 1), step + 1):
            if not is_finite(losses[past % ring]):
                detector.see_divergence(past)
                return True
        if not is_finite(parameter):
            detector.see_divergence(step)
            return True
        dead = inert = False
        if inert_share >= SCREEN:
            dead, inert = self.prepool.all_gone(trainee.model, self.probe_images, trainee.config.data.batch_size)
        detector.see(step, dead=dead, inert=inert)
        self.seconds["check"] += time.perf_counter() - started
        return detector.happened and trainee.config.train.stop_at_death

    def end(self) -> None:
        """The last check and row, after the last update, where no training batch is left to read."""
        trainee = self.trainee
        ring = len(trainee.losses)
        parameter, *losses = torch.stack([largest_parameter(trainee.model), *trainee.losses.double()]).tolist()
        losses[trainee.step % ring] = 0.0  # the ring's oldest loss; this step has none
        self.check(parameter, losses, inert_share=1.0)
        self.write(self.rates(), last=True)

    def rates(self) -> dict[str, float]:
        """The coming update's learning rate, and the sum of those before."""
        return {
            "optim/lr": learning_rate(self.trainee.config.optim, self.trainee.step),
            "optim/cumulative_lr": self.trainee.cumulative_lr,
        }

    def write(self, row: dict[str, Any], last: bool) -> None:
        """Give a row to the sinks, with the probe set and the held-out images where they are due."""
        started = time.perf_counter()
        trainee, config = self.trainee, self.trainee.config
        if last or trainee.step % config.probes.probe_set_every == 0:
            row |= self.prepool.read_set(trainee.model, self.probe_images, config.data.batch_size)
            row |= held_out_reading(trainee.model, self.data.held_out, config.data.batch_size)
        histogram = self.prepool.histogram() if self.histogram and "train/loss" in row else None
        self.seconds["probe"] += time.perf_counter() - started
        row |= {"time/elapsed": trainee.seconds, **{f"time/{name}": value for name, value in self.seconds.items()}}
        for sink in self.sinks:
            sink.row(trainee.step, row, histogram)


def is_finite(value: float) -> bool:
    """Neither NaN nor infinite."""
    return abs(value) < float("inf")


@torch.no_grad()
def largest_parameter(model: nn.Module) -> Tensor:
    """Largest absolute value of all parameters, a double on the device; NaN if one is NaN, so that one number tells."""
    return torch.stack(torch._foreach_norm(list(model.parameters()), ord=float("inf"))).max().double()


def held_out_reading(model: nn.Module, part: Images, batch_size: int) -> dict[str, float]:
    """Mean loss and accuracy on held-out images, with eval-mode batch-norm."""
    loss = torch.zeros((), dtype=torch.float64, device=part.labels.device)
    hits = torch.zeros_like(loss)
    with undisturbed(model, training=False):
        for start in range(0, len(part), batch_size):
            images, labels = part[slice(start, start + batch_size)]
            logits = model(images)
            loss += F.cross_entropy(logits, labels, reduction="sum").double()
            hits += (logits.argmax(dim=1) == labels).sum()
    mean_loss, accuracy = (torch.stack([loss, hits]) / len(part)).tolist()
    return {"val/loss": mean_loss, "val/accuracy": accuracy}
