"""The smallest runs that the tests train: seconds each, on synthetic images."""

from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.store import timeless

__all__ = ["INCEPTION", "TINY", "timeless", "tiny", "tiny_sweep"]

TINY: dict[str, Any] = {
    "model": {"name": "resnet20_cifar", "width": 0.25, "repeats": [1, 1, 1], "residual_scale": 0.1},
    "data": {"name": "synthetic", "num_images": 64, "num_classes": 4, "image_size": 16, "batch_size": 8},
    "optim": {"lr": 0.05},
    "train": {"steps": 25, "check_every": 5},
    "probes": {"every": 5, "probe_set_every": 10},
    "compute": {"device": "cpu", "checkpoint_every": 10},
}

"""The network is that of the fewest modules, which takes half the time of an Inception-ResNet."""

INCEPTION: dict[str, Any] = {"name": "inception_resnet_v2", "width": 0.03125}
"""The `model` section's changes for tests that an Inception-ResNet must pass as well, or that are about its death."""


def tiny(**changes: Any) -> RunConfig:
    """TINY with sections changed field by field: tiny(train={"steps": 5}, seed=1)."""
    merged = {
        key: {**TINY[key], **changes.get(key, {})} if isinstance(TINY.get(key), dict) else changes[key]
        for key in {**TINY, **changes}
    }
    return RunConfig.model_validate(merged)


TINY_SWEEP = """\
method: grid
parameters:
  model:
    parameters:
      name: {value: resnet20_cifar}
      width: {value: 0.25}
      repeats: {value: [1, 1, 1]}
      residual_scale: {values: [1.0, 0.1]}
  data:
    parameters:
      name: {value: synthetic}
      num_images: {value: 64}
      num_classes: {value: 4}
      image_size: {value: 16}
      batch_size: {value: 8}
  train: {parameters: {steps: {value: STEPS}, check_every: {value: 5}}}
  compute: {parameters: {device: {value: cpu}, checkpoint_every: {value: 10}}}
  seed: {values: [0, 1]}
"""


def tiny_sweep(folder: Path, steps: int = 25, name: str = "tiny.yaml") -> Path:
    """A sweep file of four tiny runs."""
    path = folder / name
    path.write_text(TINY_SWEEP.replace("STEPS", str(steps)))
    return path
