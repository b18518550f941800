"""Which executor a command asks for, and what may be said to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from harness.located import InputError
from harness.patterns import suggestion
from harness.sweep.executors.inline import Inline
from harness.sweep.executors.local import Local
from harness.sweep.executors.protocol import Executor
from harness.sweep.executors.ray import Ray
from harness.sweep.executors.slurm import Slurm


def _slurm(more: Iterable[tuple[str, str]] = (), **options: Any) -> Slurm:
    return Slurm(more=dict(more), **options)


def _ray(**options: Any) -> Ray:
    return Ray(**{"address": os.environ.get("RAY_ADDRESS") or None, **options})


EXECUTORS: Mapping[str, tuple[Callable[..., Executor], Mapping[str, str]]] = {
    "inline": (Inline, {}),
    "local": (Local, {"workers": "workers", "per_gpu": "per_gpu"}),
    "ray": (
        _ray,
        {
            "workers": "workers",
            "ray_address": "address",
            "cpus_per_run": "cpus_per_run",
            "gpus_per_run": "gpus_per_run",
        },
    ),
    "slurm": (
        _slurm,
        {
            "workers": "workers",
            "partition": "partition",
            "time": "time",
            "cpus_per_run": "cpus_per_run",
            "gpus_per_run": "gpus_per_run",
            "array_parallelism": "array_parallelism",
            "slurm": "more",
            "detach": "detach",
            "cancel": "cancel",
        },
    ),
}
"""How each executor is made, and its parameter for each option of the command line that it takes."""


def choose(name: str, options: Mapping[str, Any]) -> Executor:
    """The executor of a name, with those of a command's options that are for executors; None is one that was left out.

    Raises InputError for an unknown name, and for an option that says nothing to this executor.
    """
    if name not in EXECUTORS:
        raise InputError([f"--executor: {name!r} is unknown{suggestion(name, tuple(EXECUTORS))}"])
    make, takes = EXECUTORS[name]
    given = {option: value for option, value in options.items() if value is not None and _takers(option)}
    problems = [
        f"--{option.replace('_', '-')}: nothing to --executor {name}; it is for {', '.join(_takers(option))}"
        for option in given
        if option not in takes
    ]
    if problems:
        raise InputError(problems)
    return make(**{takes[option]: value for option, value in given.items()})


def _takers(option: str) -> list[str]:
    return [name for name, (_, takes) in EXECUTORS.items() if option in takes]
