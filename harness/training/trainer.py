"""What is trained: the network, its optimizer, and everything else of a run that changes with its steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import distributed
from harness.architectures import AUX_LOSS_WEIGHT
from harness.config import ProbesConfig, RunConfig
from harness.data.dataset import Batches, Dataset
from harness.models import build_model
from harness.optim.averaging import Average
from harness.optim.build import build_optimizer, update
from harness.optim.replicas import Replicas
from harness.optim.schedules import Length, learning_rate
from harness.outcome import Detector, Outcome
from harness.probes.cadence import Cadence
from harness.probes.probe import Probe, observe


@dataclass
class Trainer:
    """Everything of a run that changes with its steps, and its state for the checkpoint.

    eager, network: what a training step calls: the model, made data-parallel as configured; and that, compiled as
        configured.
    losses, errors: rings of the last losses and training errors, on the device, so that no step waits for the host.
    replicas: the pending gradients of asynchronous replicas, None in synchronous training.
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
    replicas: Replicas | None
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
    def new(cls, config: RunConfig, data: Dataset, device: torch.device) -> Trainer:
        """The run before its first step. Seeds torch's global generators; ranks differ in their dropout only.

        Raises ValueError for what the device or the number of processes cannot do.
        """
        train = config.train
        if train.precision == "tf32" and device.type != "cuda":
            raise ValueError("train.precision: tf32 needs a GPU; on the CPU: float32, bf16")
        if train.sync_batch_norm and device.type != "cuda":
            raise ValueError("train.sync_batch_norm needs GPUs: torch has no synchronised batch-norm on the CPU")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = train.precision == "tf32"
        torch.manual_seed(config.seed)
        network = build_model(config.model, num_classes=data.num_classes, image_size=config.data.image_size)
        model = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.manual_seed(config.seed + 1_000_003 * distributed.rank())
        eager: Callable[..., Any] = model
        if distributed.world_size() > 1:
            if train.sync_batch_norm:
                model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            eager = nn.parallel.DistributedDataParallel(model)
        averaging = train.averaging
        average = None if averaging.decay is None else Average(model, averaging.decay, averaging.bias_correction)
        optimizer = build_optimizer(model, config.optim)
        return cls(
            config=config,
            device=device,
            length=Length.of(config, len(data.train)),
            model=model,
            eager=eager,
            network=_compiled(eager) if train.compile else eager,
            optimizer=optimizer,
            average=average,
            replicas=Replicas(list(model.parameters()), config.optim, config.seed)
            if config.optim.replicas > 1
            else None,
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

    @property
    def delay(self) -> int:
        """The updates between the parameters that the coming update's gradient is of, and that update."""
        return 0 if self.replicas is None else self.replicas.delay(self.step)

    @property
    def rates(self) -> dict[str, float]:
        """For a row: the coming update's rate and delay, the sum of rates before, when a two-phase warm-up ended."""
        rates = {"optim/lr": self.lr, "optim/cumulative_lr": self.cumulative_lr, "optim/delay": self.delay}
        return rates if self.switch_step is None else {**rates, "optim/switch_step": self.switch_step}

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
            "replicas": None if self.replicas is None else self.replicas.state(),
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
        if self.replicas is not None and state["replicas"] is not None:
            self.replicas.restore(state["replicas"])
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

        A step that is `read`, or whose layers are, runs uncompiled: the instruments stay out of the compiled graph.
        """
        read_layers = self.probe is not None and self.probe.step(self.step)
        return self._compute(self.eager if read or read_layers else self.network, images, labels)

    def loss(self, network: Callable[..., Any], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss that is trained on, any auxiliary head's in it, and the logits (N, classes)."""
        smoothing = self.config.train.label_smoothing
        if not self.config.model.aux_head:
            logits = network(images)
            return F.cross_entropy(logits, labels, label_smoothing=smoothing), logits
        logits, auxiliary = network(images, with_aux=True)
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        return loss + AUX_LOSS_WEIGHT * F.cross_entropy(auxiliary, labels, label_smoothing=smoothing), logits

    def _compute(self, network: Callable[..., Any], images: Tensor, labels: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss, logits = self.loss(network, images, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.losses[self.step % len(self.losses)] = loss.detach()
        if self.config.optim.warmup.name == "two_phase":
            self.errors[self.step % len(self.errors)] = (logits.detach().argmax(dim=1) != labels).float().mean()
        return logits

    @property
    def batches_taken(self) -> int:
        """How many batches the run has trained on: each replica begins with one, all at the initial parameters."""
        return self.step + (self.replicas.count - 1 if self.replicas is not None and self.step else 0)

    def begin(self, batches: Batches) -> None:
        """Before the first update, let every replica but the one that computes next compute a gradient, unread."""
        if self.replicas is not None and self.step == 0:
            for replica in range(self.replicas.count - 1):
                self._compute(self.eager, *next(batches))
                self.replicas.begin(replica)

    def finish(self) -> None:
        """No update follows: gradients that are pending count no more."""
        self.replicas = None

    def update(self) -> None:
        """One optimizer step at the schedule's learning rate, with the gradient whose turn it is."""
        lr = self.lr
        if self.replicas is not None:
            self.replicas.exchange(self.step)
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

    def outcome(self) -> Outcome:
        """The outcome as the checks so far decide it, with a note on a two-phase warm-up that has not ended."""
        outcome = self.detector.outcome(self.step)
        if self.config.optim.warmup.name == "two_phase" and self.switch_step is None:
            return outcome.noting("the two-phase warm-up never ended: its threshold was not reached")
        return outcome


def _compiled(network: Callable[..., Any]) -> Callable[..., Any]:
    """The network compiled; what that makes is kept in the user's cache, for later runs and all workers.

    Torch itself keeps it in the temporary folder, which the next start of the machine empties.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME")
    if home is not None and os.access(home, os.W_OK):
        base = Path(home) if "XDG_CACHE_HOME" in os.environ else Path(home, ".cache")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(base / "residual-harness" / "inductor"))
    return torch.compile(network)


def layer_probe(probes: ProbesConfig, model: Callable[..., Any], optimizer: torch.optim.Optimizer) -> Probe | None:
    """The instrument that a preset names, over the layers of a model."""
    if probes.preset == "prepool":
        return None
    cadence = Cadence(**probes.cadence.model_dump())
    layers = "blocks" if probes.preset == "curvature" else probes.preset
    return observe(
        cast(nn.Module, model), layers, every=cadence, optimizer=optimizer, dormant_below=probes.dormant_below
    )
