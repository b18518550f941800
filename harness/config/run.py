"""One run's configuration, resolved on construction, and its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from harness import architectures
from harness.config import ModelConfig
from harness.config.defaults import (
    DATASET_FIELDS,
    DEFAULT_STEPS,
    OPTIMIZER_FIELDS,
    SCHEDULE_FIELDS,
    TRAINING_IMAGES,
    WARMUP_FIELDS,
    Problem,
    complete,
)
from harness.config.sections import ComputeConfig, DataConfig, OptimConfig, ProbesConfig, TrainConfig, WarmupConfig
from harness.strict import LARGEST_SINGLE, Seed, Strict

IDENTITY = ("seed", "model", "data", "optim", "train")


class RunConfig(Strict):
    """One training run."""

    seed: Seed = 0
    """Seed of the initial weights, the order of the data and dropout."""
    model: ModelConfig = ModelConfig()
    """The network."""
    data: DataConfig = DataConfig()
    """The images."""
    optim: OptimConfig = OptimConfig()
    """The optimizer, its schedule and warm-up."""
    train: TrainConfig = TrainConfig()
    """Length of the run and checks for death."""
    probes: ProbesConfig = ProbesConfig()
    """Instruments; not part of the run's identity."""
    compute: ComputeConfig = ComputeConfig()
    """Device, threads and processes; not part of the run's identity, unless several processes train otherwise."""

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        problems: list[Problem] = []
        object.__setattr__(self, "data", complete(self.data, DATASET_FIELDS, ("data",), problems))
        schedule = complete(self.optim.schedule, SCHEDULE_FIELDS, ("optim", "schedule"), problems)
        warmup = complete(self.optim.warmup, WARMUP_FIELDS, ("optim", "warmup"), problems)
        optim = complete(self.optim, OPTIMIZER_FIELDS, ("optim",), problems)
        order = optim.replica_order
        if optim.replicas > 1:
            order = order or "round_robin"
        elif order is not None:
            problems.append(
                (("optim", "replica_order"), f"{order} needs optim.replicas of 2 or more; one has no order")
            )
        update = {"schedule": schedule, "warmup": warmup, "replica_order": order}
        object.__setattr__(self, "optim", optim.model_copy(update=update))
        if self.probes.preset == "curvature" and self.train.sync_batch_norm:
            lacking = (
                "curvature needs second derivatives, which train.sync_batch_norm lacks; allowed: prepool, blocks, full"
            )
            problems.append((("probes", "preset"), lacking))
        if self.train.steps is None and self.train.epochs is None:
            object.__setattr__(self, "train", self.train.model_copy(update={"steps": DEFAULT_STEPS}))
        elif self.train.steps is not None and self.train.epochs is not None:
            problems.append((("train", "epochs"), "steps and epochs are both given; give one"))
        images = self.data.num_images or TRAINING_IMAGES.get(self.data.name)
        steps, words = self.train.steps, f"train.steps = {self.train.steps}"
        if steps is None and images is not None and self.train.epochs is not None:
            steps = self.train.epochs * (images // self.data.batch_size)
            words = f"the {steps} steps of {self.train.epochs} epochs"
        if warmup.steps is not None and steps is not None and warmup.steps >= steps:
            problems.append((("optim", "warmup", "steps"), f"{warmup.steps} is not below {words}"))
        if (rate := _largest_rate(optim, warmup)) > LARGEST_SINGLE:
            beyond = (
                f"with its factors the largest learning rate is {rate:g}, more than single precision holds (3.4e38)"
            )
            problems.append((("optim", "lr"), beyond))
        if images is not None and self.data.batch_size > images:
            problems.append((("data", "batch_size"), f"{self.data.batch_size} is above the {images} training images"))
        if self.data.augment == "inception" and self.data.name != "imagefolder":
            problems.append((("data", "augment"), "inception is for imagefolder only; allowed: none, crop_flip"))
        digest, why = _weights_digest(self.model.weights, self.model.weights_sha256)
        if why:
            problems.append((("model", "weights"), why))
        model, refused = architectures.resolve(self.model, self.data.image_size)
        problems += [(("model", field), message) for field, message in refused]
        object.__setattr__(self, "model", model.model_copy(update={"weights_sha256": digest}))
        if problems:
            raise ValidationError.from_exception_data(
                "RunConfig",
                [
                    InitErrorDetails(type=PydanticCustomError("unusable", "{why}", {"why": why}), loc=loc, input=None)
                    for loc, why in problems
                ],
            )
        return self

    @cached_property
    def run_id(self) -> str:
        """Hash of the whole resolved training configuration, 12 hexadecimal digits; made once, when it is asked for.

        Defaults are included, so equal runs are one run and a changed default never relabels an old one. Instruments
        and devices are left out, but for a number of processes on which the training depends; a file of weights counts
        by its content. Spellings of one value are one run (1 and 1.0, 0.0 and -0.0, `imgs` and `./imgs/`, a list of
        equal scales and the scale). Different fields that come to the same training stay different runs, as they are
        points of different axes: epochs and their number of steps, an exponential schedule of rate 1 and the constant
        one, width and equal trunk_width and branch_width.
        """
        training = self.model_dump(mode="json", include=set(IDENTITY))
        del training["model"]["weights"]
        for field in self.data.access:
            del training["data"][field]
        if self.optim.replicas == 1:  # as it was before there were any, so that runs of then are the same runs
            del training["optim"]["replicas"], training["optim"]["replica_order"]
        if self.compute.processes > 1 and self.differs_by_processes:
            training["processes"] = self.compute.processes
        canonical = json.dumps(training, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def differs_by_processes(self) -> bool:
        """Whether processes that share a batch train otherwise than one: own batch statistics, own dropout."""
        normed = self.model.batch_norm != "none" and not self.train.sync_batch_norm
        return normed or self.model.dropout_keep not in (None, 1.0)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, which makes its own run_id: `update` may change it."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("run_id", None)
        return copied


def _largest_rate(optim: OptimConfig, warmup: WarmupConfig) -> float:
    """The largest factor that the optimizer puts on anything at its first step."""
    rate = max(optim.lr, warmup.lr or 0.0) * max(1.0, optim.up_projection_lr, optim.up_projection_bias_lr)
    if optim.weight_decay_mode == "decoupled":
        rate *= max(1.0, optim.weight_decay)
    return rate / (1 - optim.betas[0]) if optim.betas else rate


def _weights_digest(path: str | None, expected: str | None) -> tuple[str | None, str | None]:
    """The digest of a file of weights, and what is wrong with it. A stored run's file may be gone by now."""
    if path is None:
        return None, "weights_sha256 needs weights" if expected else None
    try:
        if Path(path).exists() and not Path(path).is_file():  # a device has no end
            return expected, f"{path} is not a file"
        with Path(path).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return expected, None if expected else f"{path} cannot be read: {error.strerror}"
    if expected not in (None, found):
        return expected, f"the content of {path} is not what weights_sha256 says"
    return found, None
