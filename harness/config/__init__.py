"""The frozen, strict configuration of one run, and the run's identity.

A configuration is resolved on construction: every field left out gets the value that it will have in training, the
defaults of the named architecture and optimizer included. What is hashed, stored and trained is the resolved one.
"""

from harness.architectures.fields import ModelConfig
from harness.config.defaults import (
    CLASSES,
    DATASET_FIELDS,
    DIGITS_TRAINING_IMAGES,
    OPTIMIZER_FIELDS,
    PROBE_SET,
    SCHEDULE_FIELDS,
    TRAINING_IMAGES,
    WARMUP_FIELDS,
)
from harness.config.run import IDENTITY, RunConfig
from harness.config.sections import (
    AveragingConfig,
    CadenceConfig,
    ComputeConfig,
    CurvatureConfig,
    DataConfig,
    OptimConfig,
    ProbesConfig,
    ScheduleConfig,
    TrainConfig,
    WarmupConfig,
)

__all__ = [
    "CLASSES",
    "DATASET_FIELDS",
    "DIGITS_TRAINING_IMAGES",
    "IDENTITY",
    "OPTIMIZER_FIELDS",
    "PROBE_SET",
    "SCHEDULE_FIELDS",
    "TRAINING_IMAGES",
    "WARMUP_FIELDS",
    "AveragingConfig",
    "CadenceConfig",
    "ComputeConfig",
    "CurvatureConfig",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "ProbesConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainConfig",
    "WarmupConfig",
]
