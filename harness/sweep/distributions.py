"""The distributions of W&B sweep configurations, as pure functions of a random generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Distribution:
    """One distribution: its required and optional settings, and how a value is drawn."""

    needs: tuple[str, ...]
    draw: Callable[[Random, Settings], Any]
    defaults: Settings = field(default_factory=dict)


def _log(draw: Callable[[Random, Settings], float]) -> Callable[[Random, Settings], float]:
    return lambda random, s: math.exp(draw(random, s))


def _stepped(draw: Callable[[Random, Settings], float]) -> Callable[[Random, Settings], float]:
    """Round to a multiple of q; ten significant digits, so that 3 * 0.1 is 0.3."""

    def stepped(random: Random, s: Settings) -> float:
        return float(f"{round(draw(random, s) / s['q']) * s['q']:.10g}")

    return stepped


def _uniform(random: Random, s: Settings) -> float:
    return random.uniform(s["min"], s["max"])


def _uniform_of_logs(random: Random, s: Settings) -> float:
    return random.uniform(math.log(s["min"]), math.log(s["max"]))


def _inverse_uniform(random: Random, s: Settings) -> float:
    return -random.uniform(s["min"], s["max"])


def _normal(random: Random, s: Settings) -> float:
    return random.gauss(s["mu"], s["sigma"])


def _beta(random: Random, s: Settings) -> float:
    return random.betavariate(s["a"], s["b"])


_RANGE = ("min", "max")
_BELL: Settings = {"mu": 0.0, "sigma": 1.0}
_BETA: Settings = {"a": 1.0, "b": 1.0}
_Q: Settings = {"q": 1.0}

DISTRIBUTIONS: Mapping[str, Distribution] = {
    "constant": Distribution(("value",), lambda _, s: s["value"]),
    "categorical": Distribution(("values",), lambda random, s: random.choice(s["values"])),
    "categorical_w_probabilities": Distribution(
        ("values", "probabilities"), lambda random, s: random.choices(s["values"], s["probabilities"])[0]
    ),
    "int_uniform": Distribution(_RANGE, lambda random, s: random.randint(s["min"], s["max"])),
    "uniform": Distribution(_RANGE, _uniform),
    "q_uniform": Distribution(_RANGE, _stepped(_uniform), _Q),
    "log_uniform": Distribution(_RANGE, _log(_uniform)),
    "q_log_uniform": Distribution(_RANGE, _stepped(_log(_uniform)), _Q),
    "inv_log_uniform": Distribution(_RANGE, _log(_inverse_uniform)),
    "log_uniform_values": Distribution(_RANGE, _log(_uniform_of_logs)),
    "q_log_uniform_values": Distribution(_RANGE, _stepped(_log(_uniform_of_logs)), _Q),
    "inv_log_uniform_values": Distribution(_RANGE, _log(_uniform_of_logs)),
    "normal": Distribution((), _normal, _BELL),
    "q_normal": Distribution((), _stepped(_normal), {**_BELL, **_Q}),
    "log_normal": Distribution((), _log(_normal), _BELL),
    "q_log_normal": Distribution((), _stepped(_log(_normal)), {**_BELL, **_Q}),
    "beta": Distribution((), _beta, _BETA),
    "q_beta": Distribution((), _stepped(_beta), {**_BETA, **_Q}),
}
"""Every distribution that a W&B sweep knows, by its name there."""

DISCRETE_RANGES = ("int_uniform", "q_uniform")
"""Ranges that a grid can list."""


def listed(name: str, settings: Settings) -> list[Any]:
    """Every value of a discrete range, in order; as W&B's own grid, q_uniform leaves its `max` out."""
    if name == "int_uniform":
        return list(range(settings["min"], settings["max"] + 1))
    count = math.ceil((settings["max"] - settings["min"]) / settings["q"] - 1e-9)
    return [float(f"{settings['min'] + i * settings['q']:.10g}") for i in range(count)]
