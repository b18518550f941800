"""The distributions of W&B sweep configurations, as pure functions of a random generator."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Distribution:
    """One distribution: its required and optional settings, and how a value (of `values`: its place there) is drawn."""

    needs: tuple[str, ...]
    draw: Callable[[Random, Settings], Any]
    defaults: Settings = field(default_factory=dict)


def _log(draw: Callable[[Random, Settings], float]) -> Callable[[Random, Settings], float]:
    return lambda random, s: math.exp(draw(random, s))


def _stepped(draw: Callable[[Random, Settings], float]) -> Callable[[Random, Settings], float]:
    """To a multiple of q: a whole number where q is one, else to ten significant digits, so that 3 * 0.1 is 0.3."""

    def stepped(random: Random, s: Settings) -> float:
        steps, q = round(draw(random, s) / s["q"]), s["q"]
        return steps * int(q) if is_whole(q) else float(f"{steps * q:.10g}")

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
    "categorical": Distribution(("values",), lambda random, s: random.choice(range(len(s["values"])))),
    "categorical_w_probabilities": Distribution(
        ("values", "probabilities"), lambda random, s: random.choices(range(len(s["values"])), s["probabilities"])[0]
    ),
    "int_uniform": Distribution(_RANGE, lambda random, s: random.randint(int(s["min"]), int(s["max"]))),
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
UNCOUNTED = 10**15
"""Said of a range with more values than that."""
_LARGEST_EXPONENT, _SMALLEST_EXPONENT = math.log(sys.float_info.max), math.log(sys.float_info.min)
_BETA_LIMITS = (1e-6, 1e6)


def is_whole(value: float) -> bool:
    """Whether a number is a whole one, with or without a dot."""
    return isinstance(value, int) or value.is_integer()


def count(name: str, settings: Settings) -> int:
    """How many values a discrete range has; as in W&B's own grid, q_uniform leaves its `max` out."""
    if name == "int_uniform":
        return int(settings["max"]) - int(settings["min"]) + 1
    steps = settings["max"] / settings["q"] - settings["min"] / settings["q"]
    return math.ceil(steps - 1e-9) if steps < UNCOUNTED else UNCOUNTED


def value_at(name: str, settings: Settings, index: int) -> float:
    """The value of a discrete range at an index: whole numbers where its start and step are."""
    start, step = settings["min"], 1 if name == "int_uniform" else settings["q"]
    if is_whole(start) and is_whole(step):
        return int(start) + index * int(step)
    return float(f"{start + index * step:.10g}")


def absurd(name: str, settings: Settings) -> tuple[str, str] | None:
    """The setting whose value makes no distribution that can be drawn from, and why; None where all do."""
    low, high = settings.get("min", 0), settings.get("max", 0)
    if not math.isfinite(high - low):
        return "max", f"the range from {low} to {high} is too large"
    if name in ("log_uniform", "inv_log_uniform", "q_log_uniform"):
        return _absurd_exponents(name, low, high)
    if name.endswith("log_normal") and not _SMALLEST_EXPONENT < settings["mu"] < _LARGEST_EXPONENT:
        return "mu", f"mu is {settings['mu']}, of the logarithm: e to that is {_size(settings['mu'])}"
    if name.endswith("beta"):
        for key in ("a", "b"):
            if not _BETA_LIMITS[0] <= settings[key] <= _BETA_LIMITS[1]:
                return key, f"{key} is {settings[key]}; from {_BETA_LIMITS[0]:.6f} to {_BETA_LIMITS[1]:.0f}"
    return None


def _absurd_exponents(name: str, low: float, high: float) -> tuple[str, str] | None:
    """Bounds that are exponents of e, and whoever wrote them took for the values."""
    sign = -1 if name.startswith("inv") else 1
    for key, exponent in (("min", low), ("max", high)):
        if not _SMALLEST_EXPONENT < sign * exponent < _LARGEST_EXPONENT:
            size = _size(sign * exponent)
            why = f"{key} is {exponent}; {name} takes exponents, and e to {sign * exponent} is {size}"
            return key, f"{why}; for the values themselves use {name}_values"
    if 0 < low <= high < 1:
        ends = sorted(math.exp(sign * exponent) for exponent in (low, high))
        why = f"{name} takes exponents of e, and {low} to {high} gives values from {ends[0]:.4g} to {ends[1]:.4g}"
        return "min", f"{why}; use {name}_values, with min and max the values that are meant"
    return None


def _size(exponent: float) -> str:
    return f"too {'large' if exponent > 0 else 'small'} a number"
