"""A sweep file (a W&B sweep configuration) becomes a list of resolved run configurations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.config import RunConfig
from harness.located import Document, InputError, Loc, explain, parse
from harness.patterns import suggestion
from harness.sweep.distributions import DISCRETE_RANGES, DISTRIBUTIONS, listed

MAX_RUNS = 100_000

_READ = ("name", "description", "method", "parameters", "run_cap")
_FOR_THE_SERVER = ("project", "entity", "program", "command", "metric", "apiVersion", "kind")
_SERVER_ONLY = ("early_terminate", "job", "image_uri", "controller", "scheduler")
_SETTINGS = (
    "value", "values", "probabilities", "distribution", "min", "max", "q", "mu", "sigma", "a", "b", "parameters",
)  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """A validated sweep.

    name: as the file says, or the file's own name.
    description: the file's question, in words.
    configs: the resolved runs, each once, in the file's order (its last parameter varies fastest).
    varied: dotted names of the fields in which they differ.
    text: the file as given.
    """

    name: str
    description: str
    configs: tuple[RunConfig, ...]
    varied: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class _Parameter:
    """A leaf of `parameters`: which field it sets, where it stands, how its values are had."""

    path: tuple[str, ...]
    loc: Loc
    distribution: str
    settings: Mapping[str, Any]

    def choices(self) -> list[tuple[Loc, Any]]:
        """Every value of a grid, with its place in the file."""
        if self.distribution == "constant":
            return [((*self.loc, "value"), self.settings["value"])]
        if self.distribution in DISCRETE_RANGES:
            return [(self.loc, value) for value in listed(self.distribution, self.settings)]
        return [((*self.loc, "values", i), value) for i, value in enumerate(self.settings["values"])]

    def draw(self, random: Random) -> tuple[Loc, Any]:
        """One random value, with its place in the file."""
        value = DISTRIBUTIONS[self.distribution].draw(random, self.settings)
        if self.distribution in ("categorical", "categorical_w_probabilities"):
            return (*self.loc, "values", self.settings["values"].index(value)), value
        return ((*self.loc, "value") if self.distribution == "constant" else self.loc), value


def expand(text: str, name: str) -> Sweep:
    """Validate a sweep file's text and list its runs. `name` is the file's, for messages.

    Raises InputError with every problem, each with file, line, column and what is allowed.
    """
    document = parse(text, name)
    reader = _Reader(document)
    method = reader.top_level()
    parameters = list(reader.parameters(document.data.get("parameters"), (), ("parameters",), method))
    if reader.problems:
        raise InputError(reader.problems)
    cap = document.data.get("run_cap")
    draws = _grid(parameters, cap) if method == "grid" else _random(parameters, cap)
    size = math.prod(len(parameter.choices()) for parameter in parameters) if method == "grid" else MAX_RUNS + 1
    size = size if cap is None else min(size, cap)
    if size > MAX_RUNS:
        raise InputError([f"{document.place(('parameters',))}: {size} runs; at most {MAX_RUNS}: set run_cap"])
    configs: dict[str, RunConfig] = {}
    problems: list[str] = []
    for draw in draws:
        try:
            config = RunConfig.model_validate(_nested(draw))
        except ValidationError as error:
            problems += _located(error, draw, document)
        else:
            configs.setdefault(config.run_id, config)
    if problems:
        raise InputError(problems)
    fields = [field for parameter in parameters for field in _leaves(parameter.path, next(iter(configs.values())))]
    varied = tuple(
        field for field in fields if len({repr(get_field(config, field)) for config in configs.values()}) > 1
    )
    data = document.data
    return Sweep(
        str(data.get("name") or name), str(data.get("description") or ""), tuple(configs.values()), varied, text
    )


def cell(config: RunConfig, varied: tuple[str, ...]) -> dict[str, Any]:
    """The values of the fields in which the runs of a sweep differ, seed apart: a cell of its grid."""
    return {field: get_field(config, field) for field in varied if field != "seed"}


def get_field(config: RunConfig, field: str) -> Any:
    """The value of a field by its dotted name."""
    value: Any = config
    for part in field.split("."):
        value = getattr(value, part)
    return value


def _leaves(path: tuple[str, ...], config: RunConfig) -> Iterator[str]:
    """Dotted names of the fields at a path: itself, or those of the section that it names."""
    value = get_field(config, ".".join(path))
    if not isinstance(value, BaseModel):
        yield ".".join(path)
        return
    for name in type(value).model_fields:
        yield from _leaves((*path, name), config)


class _Reader:
    """Reads the sweep's own layer, the configuration of the runs apart, and collects its problems."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[str] = []

    def problem(self, loc: Loc, message: str) -> None:
        self.problems.append(f"{self.document.place(loc)}: {message}")

    def top_level(self) -> str:
        """Check the keys of the top level and give the method."""
        data = self.document.data
        for key in data:
            if key in _SERVER_ONLY:
                self.problem((key,), f"{key} needs a W&B server (`wandb sweep`); remove it to run the sweep here")
            elif key not in (*_READ, *_FOR_THE_SERVER):
                self.problem((key,), f"{key}: unknown key{suggestion(key, (*_READ, *_FOR_THE_SERVER))}")
        method = data.get("method")
        if method == "bayes":
            self.problem(("method",), "method bayes is left to a W&B server (`wandb sweep`); here: grid, random")
        elif method not in ("grid", "random"):
            found = "is missing" if method is None else f"{method!r} is unknown"
            hint = suggestion(str(method), ("grid", "random")) if method else "; allowed: grid, random"
            self.problem(("method",), f"method {found}{hint}")
        cap = data.get("run_cap")
        if cap is None and method == "random":
            self.problem(("method",), "method random needs run_cap, the number of runs to draw")
        elif cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
            self.problem(("run_cap",), f"run_cap: found {cap!r}; expected a whole number >= 1")
        return str(method)

    def parameters(self, data: Any, path: tuple[str, ...], loc: Loc, method: str) -> Iterator[_Parameter]:
        """Walk `parameters` and give its leaves."""
        if not isinstance(data, dict) or not data:
            self.problem(loc, f"{'.'.join(map(str, loc))}: expected a mapping of at least one parameter")
            return
        for name, spec in data.items():
            here, field = (*loc, name), (*path, name)
            if not isinstance(spec, dict):
                self.problem(here, f"{'.'.join(field)}: found {spec!r}; write `{name}: {{value: {spec}}}`")
                continue
            unknown = [key for key in spec if key not in _SETTINGS]
            for key in unknown:
                hint = suggestion(key, _SETTINGS)
                if key in RunConfig.model_fields or len(path) == 0:
                    hint += f"; fields of {name} stand one level deeper, under `parameters:`"
                self.problem((*here, key), f"{'.'.join(field)}: unknown key {key!r}{hint}")
            if "parameters" in spec:
                for key in (key for key in spec if key != "parameters" and key not in unknown):
                    self.problem((*here, key), f"{'.'.join(field)}: {key} cannot stand beside parameters")
                yield from self.parameters(spec["parameters"], field, (*here, "parameters"), method)
            elif not unknown:
                parameter = self._leaf(spec, field, here)
                if parameter and self._fits(parameter, method):
                    yield parameter

    def _leaf(self, spec: dict[str, Any], path: tuple[str, ...], loc: Loc) -> _Parameter | None:
        """A parameter with its distribution, stated or implied by its settings."""
        dotted = ".".join(path)
        before = len(self.problems)
        name = spec.get("distribution")
        if name is None:
            if "value" in spec:
                name = "constant"
            elif "values" in spec:
                name = "categorical_w_probabilities" if "probabilities" in spec else "categorical"
            elif "min" in spec and "max" in spec:
                whole = all(isinstance(spec[key], int) for key in ("min", "max"))
                name = "int_uniform" if whole else "uniform"
            else:
                self.problem(loc, f"{dotted}: needs value, values, or min and max")
                return None
        elif name not in DISTRIBUTIONS:
            self.problem(
                (*loc, "distribution"), f"{dotted}: unknown distribution{suggestion(str(name), list(DISTRIBUTIONS))}"
            )
            return None
        if name == "categorical" and "probabilities" in spec:
            name = "categorical_w_probabilities"
        distribution = DISTRIBUTIONS[name]
        for key in distribution.needs:
            if key not in spec:
                self.problem(loc, f"{dotted}: {name} needs {key}")
        for key in spec:
            if key != "distribution" and key not in (*distribution.needs, *distribution.defaults):
                self.problem((*loc, key), f"{dotted}: {name} has no {key}")
        if "values" in spec and (not isinstance(spec["values"], list) or not spec["values"]):
            self.problem((*loc, "values"), f"{dotted}: values is {spec['values']!r}; expected a list of at least one")
        if len(self.problems) == before:
            self._check_numbers(name, spec, dotted, loc)
        if len(self.problems) > before:
            return None
        return _Parameter(path, loc, name, {**distribution.defaults, **spec})

    def _check_numbers(self, name: str, spec: dict[str, Any], dotted: str, loc: Loc) -> None:
        for key in ("min", "max", "q", "mu", "sigma", "a", "b"):
            value = spec.get(key, 1)
            whole = name == "int_uniform"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                expected = "a whole number" if whole else "a number (YAML reads 1e-4 as text: write 1.0e-4)"
                self.problem((*loc, key), f"{dotted}: {key} is {value!r}; expected {expected}")
                return
            if not math.isfinite(value) or (key in ("q", "sigma", "a", "b") and value <= 0):
                self.problem((*loc, key), f"{dotted}: {key} is {value}; expected a finite number > 0")
                return
        if "min" in spec and spec["min"] > spec["max"]:
            self.problem((*loc, "min"), f"{dotted}: min {spec['min']} is above max {spec['max']}")
        if name.endswith("log_uniform_values") and spec["min"] <= 0:
            self.problem((*loc, "min"), f"{dotted}: min is {spec['min']}; {name} needs min > 0")
        if name == "categorical_w_probabilities":
            weights = spec["probabilities"]
            proper = isinstance(weights, list) and all(isinstance(w, int | float) and w >= 0 for w in weights)
            if not proper or len(weights) != len(spec["values"]) or abs(sum(weights) - 1) > 1e-6:
                self.problem(
                    (*loc, "probabilities"),
                    f"{dotted}: probabilities must be {len(spec['values'])} shares that add to 1",
                )

    def _fits(self, parameter: _Parameter, method: str) -> bool:
        """Whether the method can use the parameter."""
        discrete = ("constant", "categorical", *DISCRETE_RANGES)
        if method != "grid" or parameter.distribution in discrete:
            return True
        dotted = ".".join(parameter.path)
        if parameter.distribution == "categorical_w_probabilities":
            self.problem(
                (*parameter.loc, "probabilities"), f"{dotted}: a grid takes every value once; no probabilities"
            )
        else:
            self.problem(
                parameter.loc,
                f"{dotted}: a grid cannot run over the continuous range {parameter.distribution}; "
                f"list its points under values, or use method random",
            )
        return False


_Draw = list[tuple[_Parameter, Loc, Any]]


def _grid(parameters: list[_Parameter], cap: int | None) -> Iterator[_Draw]:
    product = itertools.product(*(parameter.choices() for parameter in parameters))
    for combination in itertools.islice(product, cap):
        yield [(parameter, loc, value) for parameter, (loc, value) in zip(parameters, combination, strict=True)]


def _random(parameters: list[_Parameter], cap: int | None) -> Iterator[_Draw]:
    """Draw number i depends on i and the parameters alone, so that a higher run_cap adds runs and changes none."""
    content = repr([(p.path, p.distribution, sorted(p.settings.items(), key=str)) for p in parameters])
    for number in range(cap or 0):
        random = Random(f"{number} {content}")
        yield [(parameter, *parameter.draw(random)) for parameter in parameters]


def _nested(draw: _Draw) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for parameter, _, value in draw:
        section = config
        for part in parameter.path[:-1]:
            section = section.setdefault(part, {})
        section[parameter.path[-1]] = value
    return config


def _located(error: ValidationError, draw: _Draw, document: Document) -> Iterator[str]:
    """The problems of one run's configuration, each at the place of the sweep file that set the value."""

    def in_file(loc: Loc) -> Loc:
        for parameter, value_loc, _ in draw:
            if loc[: len(parameter.path)] == parameter.path:
                return (*value_loc, *loc[len(parameter.path) :])
        path: Loc = ()  # a field that the file does not set, or a section it does not know
        for part in loc:
            path = (*path, "parameters", part)
        return path

    def place(loc: Loc, unknown: bool) -> str:
        file_loc = in_file(loc)
        if unknown:  # point at the key, not at its value
            leaf = next((p for p, _, _ in draw if p.path == loc[: len(p.path)]), None)
            file_loc = leaf.loc if leaf and len(leaf.path) == len(loc) else file_loc
        return document.place(file_loc)

    for loc, message in explain(error, RunConfig, lambda loc: document.raw(in_file(loc))):
        yield f"{place(loc, 'unknown key' in message)}: {message}"
