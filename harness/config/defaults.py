"""Which optional fields each optimizer, schedule, warm-up and dataset has, and what a field left out becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from harness.strict import Strict

# Which optional fields each named thing has, with the value that each takes when left out. REQUIRED: none is sensible.
REQUIRED = object()
OPTIMIZER_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "rmsprop_tf": {"momentum": 0.9, "decay": 0.9, "eps": 1.0},
    "rmsprop_torch": {"momentum": 0.9, "decay": 0.9, "eps": 1.0},
    "sgd": {"momentum": 0.9},
    "adam": {"eps": 1e-8, "betas": (0.9, 0.999)},
}
SCHEDULE_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "constant": {},
    "exponential": {"rate": 0.94, "every": 2, "unit": "epochs"},
    "cosine": {},
}
WARMUP_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "constant": {"lr": REQUIRED, "steps": REQUIRED, "shift": False},
    "gradual": {"lr": REQUIRED, "steps": REQUIRED, "shift": False},
    "two_phase": {"lr": REQUIRED, "threshold": 0.8, "window": 50, "shift": False},
}
DATASET_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "digits": {},
    "synthetic": {"num_classes": 10, "num_images": 1024, "seed": 0},
    "cifar10": {"root": "data", "download": False, "augment": "crop_flip"},
    "cifar100": {"root": "data", "download": False, "augment": "crop_flip"},
    "fashion_mnist": {"root": "data", "download": False, "augment": "none"},
    "imagefolder": {
        "root": "data/imagenet",
        "num_classes": 1000,
        "augment": "inception",
        "eval_crop": 0.875,
        "corrupt": "refuse",
        "workers": 4,
    },
}
DEFAULT_STEPS = 200
PROBE_SET = 256
"""Images in the fixed probe set, of a data set that has as many."""
DIGITS_TRAINING_IMAGES = 1437
TRAINING_IMAGES: Mapping[str, int] = {
    "digits": DIGITS_TRAINING_IMAGES,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "fashion_mnist": 60_000,
}
CLASSES: Mapping[str, int] = {"digits": 10, "cifar10": 10, "cifar100": 100, "fashion_mnist": 10}
"""Of the datasets whose number of classes is no field."""
Problem = tuple[tuple[str, ...], str]
Section = TypeVar("Section", bound=Strict)


def complete(
    section: Section, table: Mapping[str, Mapping[str, Any]], loc: tuple[str, ...], problems: list[Problem]
) -> Section:
    """Fill the optional fields that the section's `name` has, and refuse those that it lacks."""
    name: str = section.name  # type: ignore[attr-defined]
    optional = {field for fields in table.values() for field in fields}
    update: dict[str, Any] = {}
    for field in sorted(optional):
        value = getattr(section, field)
        if field not in table[name]:
            if value is not None:
                having = " or ".join(other for other, fields in table.items() if field in fields)
                problems.append(((*loc, field), f"{name} has no {field}; only {having} has"))
        elif value is None:
            if table[name][field] is REQUIRED:
                problems.append(((*loc, field), f"{name} needs {field}"))
            update[field] = None if table[name][field] is REQUIRED else table[name][field]
    return section.model_copy(update=update)
