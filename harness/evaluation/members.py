"""The networks that an evaluation takes: from run directories, or from files of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from harness.config import DataConfig, RunConfig
from harness.data.check import count_classes
from harness.located import InputError
from harness.models import build_model
from harness.store import Damaged, RunDirectory, runs

Weights = Literal["averaged", "current"]
TRAINING_ONLY = ("batch_size", "augment", "corrupt", "download", "workers")
"""Fields of `data` in which the members of an ensemble may differ."""


@dataclass(frozen=True)
class Member:
    """A network in evaluation. weights: `averaged`, `current`, or `file`."""

    source: Path
    config: RunConfig
    model: nn.Module
    weights: str

    @property
    def network(self) -> str:
        """The architecture's name."""
        return self.config.model.name


def load_member(
    source: Path, device: torch.device, *, weights: Weights = "averaged", settings: RunConfig | None = None
) -> Member:
    """The network of a run directory's checkpoint, or of a file of weights, on the device.

    `averaged`: the moving average of the parameters where the run kept one, else the current ones. `settings`: the
    configuration of a file of weights; a run has its own. Raises InputError for what is neither or does not fit.
    """
    if source.is_dir():
        config, state, found = _read_run(source, weights)
        model = _build(config, device)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise InputError([f"{source}: its checkpoint does not fit its configuration: {error}"]) from None
        return Member(source, config, model, found)
    if not source.is_file():
        raise InputError([f"{source}: no such run directory or file of weights"])
    if settings is None:
        raise InputError([f"{source}: a file of weights needs its network and data: model.name=... data.name=..."])
    try:
        model = _build(settings, device, weights=str(source))
    except ValueError as error:
        raise InputError(str(error).splitlines()) from None
    return Member(source, settings, model, "file")


def _read_run(source: Path, weights: Weights) -> tuple[RunConfig, dict[str, Any], Weights]:
    """Configuration, state dict, and which parameters it has."""
    run = RunDirectory(source)
    if not run.file("config.json").exists():
        inside = [str(each.path) for each in runs(source)]
        hint = f"; it holds the runs {', '.join(inside[:5])}" if inside else ""
        raise InputError([f"{source}: not a run directory (no config.json){hint}"])
    try:
        config, checkpoint = run.config(), run.checkpoint()
    except Damaged as error:
        raise InputError([str(error)]) from None
    if checkpoint is None:
        raise InputError([f"{source}: no checkpoint yet"])
    state: dict[str, Any] = checkpoint["model"]
    if weights == "current" or checkpoint.get("average") is None:
        return config, state, "current"
    return config, state | checkpoint["average"]["weights"], "averaged"


def _build(config: RunConfig, device: torch.device, weights: str | None = None) -> nn.Module:
    network = config.model.model_copy(update={"weights": weights, "weights_sha256": None})
    model = build_model(network, num_classes=count_classes(config.data), image_size=config.data.image_size)
    return model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def common_data(members: list[Member]) -> DataConfig:
    """The images that all members see. Raises InputError where they do not see the same."""
    data = members[0].config.data
    problems = []
    for member in members[1:]:
        other = member.config.data
        for field in type(data).model_fields:
            ours, theirs = getattr(data, field), getattr(other, field)
            if field not in TRAINING_ONLY and ours != theirs:
                problems.append(f"{member.source}: data.{field} is {theirs}, but {ours} in {members[0].source}")
    if problems:
        raise InputError([*problems, "the networks of an ensemble must see the same images"])
    return data
