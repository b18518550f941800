"""A sweep file (a W&B sweep configuration) becomes a list of resolved run configurations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.config import RunConfig
from harness.located import Document, InputError, Loc, accepts, explain, parse, readings, shortened, spelled
from harness.patterns import suggestion
from harness.store.columns import flat
from harness.sweep.distributions import DISCRETE_RANGES, DISTRIBUTIONS, absurd, count, is_whole, value_at

MAX_RUNS = 100_000
_ENOUGH = 1000
"""Unusable runs, after which no further ones are looked at."""
_CAP = f"a whole number from 1 to {MAX_RUNS}"
_RANGE = ("min", "max", "mu")
_NUMBERS = ("min", "max", "q", "mu", "sigma", "a", "b")

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
    varied: dotted names of the fields that the file sets and in which they differ.
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

    def count(self) -> int:
        """How many values a grid takes."""
        if self.distribution in DISCRETE_RANGES:
            return count(self.distribution, self.settings)
        return len(self.settings["values"]) if "values" in self.settings else 1

    def choice(self, index: int) -> tuple[Loc, Any]:
        """One of a grid's values, with its place in the file."""
        if self.distribution in DISCRETE_RANGES:
            return self.loc, value_at(self.distribution, self.settings, index)
        if "values" in self.settings:
            return (*self.loc, "values", index), self.settings["values"][index]
        return (*self.loc, "value"), self.settings["value"]

    def draw(self, random: Random) -> tuple[Loc, Any]:
        """One random value, with its place in the file. Raises OverflowError for one that no number can hold."""
        value = DISTRIBUTIONS[self.distribution].draw(random, self.settings)
        if "values" in self.settings:
            return self.choice(value)
        return ((*self.loc, "value") if self.distribution == "constant" else self.loc), value


def expand(text: str, name: str, title: str | None = None) -> Sweep:
    """Validate a sweep file's text and list its runs. `name` is the file's, for messages.

    title: the sweep's name where the file gives none; by default the file's, without folder and ending.
    Raises InputError with every problem, each with file, line, column and what is allowed.
    """
    document = parse(text, name)
    reader = _Reader(document)
    method = reader.top_level()
    parameters = list(reader.parameters(document.data.get("parameters"), (), ("parameters",), method))
    reader.refuse_twice(parameters)
    if reader.problems:
        raise InputError(reader.problems)
    cap = document.data.get("run_cap")
    size = math.prod(parameter.count() for parameter in parameters) if method == "grid" else cap
    size = size if cap is None else min(size, cap)
    if size > MAX_RUNS:
        where = ("parameters",) if cap is None else ("run_cap",)
        raise InputError([f"{document.place(where)}: {size} runs; at most {MAX_RUNS}: set run_cap to that or less"])
    configs: dict[str, RunConfig] = {}
    problems = _Problems(document)
    for draw in (_grid if method == "grid" else _random)(parameters, size, document):
        try:
            config = RunConfig.model_validate(_nested(draw))
        except ValidationError as error:
            problems.add(error, draw)
        else:
            configs.setdefault(config.run_id, config)
        if problems.enough():
            break
    if problems.lines:
        raise InputError(problems.lines)
    first = next(iter(configs.values()))
    fields = dict.fromkeys(field for parameter in parameters for field in _set_by(parameter, first))
    varied = tuple(
        field for field in fields if len({repr(get_field(config, field)) for config in configs.values()}) > 1
    )
    data = document.data
    return Sweep(
        str(data.get("name") or title or Path(name).stem),
        str(data.get("description") or ""),
        tuple(configs.values()),
        varied,
        text,
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


def _set_by(parameter: _Parameter, config: RunConfig) -> Iterator[str]:
    """Dotted names of the fields that a parameter sets: of whole sections those that its values name."""
    for value in parameter.settings.get("values", [parameter.settings.get("value")]):
        if isinstance(value, Mapping):
            for name in flat(value):
                yield from _leaves((*parameter.path, *name.split(".")), config)
        else:
            yield from _leaves(parameter.path, config)


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
        for key in ("name", "description"):
            if isinstance(data.get(key), dict | list):
                self.problem((key,), f"{key}: found a {_kind(data[key])}; expected text")
        method = data.get("method")
        if method == "bayes":
            self.problem(("method",), "method bayes is left to a W&B server (`wandb sweep`); here: grid, random")
        elif method not in ("grid", "random"):
            found = "is missing" if method is None else f"{self._shown(method)} is unknown"
            hint = suggestion(method, ("grid", "random")) if isinstance(method, str) else "; allowed: grid, random"
            self.problem(("method",), f"method {found}{hint}")
        cap = data.get("run_cap")
        if cap is None and method == "random":
            self.problem(("method",), f"method random needs run_cap, the number of runs to draw, {_CAP}")
        elif cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
            self.problem(("run_cap",), f"run_cap: found {self._shown(cap)}; expected {_CAP}")
        return str(method)

    def parameters(self, data: Any, path: tuple[str, ...], loc: Loc, method: str) -> Iterator[_Parameter]:
        """Walk `parameters` and give its leaves."""
        if not isinstance(data, dict) or not data:
            self.problem(loc, f"{'.'.join(map(str, loc))}: expected a mapping of at least one parameter")
            return
        for name, spec in data.items():
            here, field = (*loc, name), (*path, *str(name).split("."))
            if not isinstance(spec, dict):
                self.problem(here, f"{'.'.join(field)}: {self._bare(field, name, spec)}")
                continue
            unknown = [key for key in spec if key not in _SETTINGS]
            for key in unknown:
                hint = suggestion(key, _SETTINGS)
                if _is_section(field) and key not in _SETTINGS:
                    hint += f"; fields of {name} stand one level deeper: `{name}: {{parameters: {{{key}: ...}}}}`"
                self.problem((*here, key), f"{'.'.join(field)}: unknown key {key!r}{hint}")
            if "parameters" in spec:
                for key in (key for key in spec if key != "parameters" and key not in unknown):
                    self.problem((*here, key), f"{'.'.join(field)}: {key} cannot stand beside parameters")
                yield from self.parameters(spec["parameters"], field, (*here, "parameters"), method)
            elif not unknown:
                parameter = self._leaf(spec, field, here)
                if parameter and self._fits(parameter, method):
                    yield parameter

    def refuse_twice(self, parameters: Sequence[_Parameter]) -> None:
        """Report fields that two parameters set, as `optim.lr` and `lr` under `optim` do."""
        by_path: dict[tuple[str, ...], _Parameter] = {}
        for parameter in sorted(parameters, key=lambda each: len(each.path)):
            if any(parameter.path[:length] in by_path for length in range(1, len(parameter.path) + 1)):
                self.problem(parameter.loc, f"{'.'.join(parameter.path)}: given twice")
            by_path[parameter.path] = parameter

    def _bare(self, field: tuple[str, ...], name: str, spec: Any) -> str:
        """What is wrong with a parameter that is no mapping, and how its value is written where it is one."""
        if spec is None:
            return "found nothing; leave it out, or give value, values, min and max, or parameters"
        found = f"found {shortened(spelled(spec))}"
        meant = [(spec, spelled(spec)), *readings(spec)]
        written = next((text for value, text in meant if accepts(RunConfig, field, value)), None)
        if written is not None:
            return f"{found}; write `{name}: {{value: {written}}}`"
        if isinstance(spec, list) and spec and all(accepts(RunConfig, field, value) for value in spec):
            return f"{found}; write `{name}: {{values: {spelled(spec)}}}`"
        return f"{found}; expected a mapping with value, values, min and max, or parameters"

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
        elif not isinstance(name, str) or name not in DISTRIBUTIONS:
            hint = suggestion(name if isinstance(name, str) else "", list(DISTRIBUTIONS))
            self.problem((*loc, "distribution"), f"{dotted}: unknown distribution{hint}")
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
            found = self._shown(spec["values"])
            self.problem((*loc, "values"), f"{dotted}: values is {found}; expected a list of at least one")
        if len(self.problems) > before:
            return None
        settings = {**distribution.defaults, **spec}
        wrong = self._wrong_number(name, settings) or _wrong_range(name, settings) or absurd(name, settings)
        if wrong is not None:
            self.problem((*loc, wrong[0]), f"{dotted}: {wrong[1]}")
            return None
        return _Parameter(path, loc, name, settings)

    def _wrong_number(self, name: str, settings: Mapping[str, Any]) -> tuple[str, str] | None:
        """The first setting that is no number of the right kind, and what is wrong with it."""
        for key in _NUMBERS:
            value = settings.get(key, 1)
            if isinstance(value, bool) or not isinstance(value, int | float):
                numbers = (text for meant, text in readings(value) if isinstance(meant, int | float))
                advice = next(
                    (f": write {text}" for text in numbers if not isinstance(value, list)), "; expected a number"
                )
                return key, f"{key} is {self._shown(value)}{advice}"
            if not math.isfinite(value) or (key in ("q", "sigma", "a", "b") and value <= 0):
                return key, f"{key} is {value}; expected a finite number{'' if key in _RANGE else ' > 0'}"
            if name == "int_uniform" and not is_whole(value):
                return key, f"{key} is {value}; expected a whole number, as {name} gives"
        return None

    def _shown(self, value: Any) -> str:
        """A found value in a message, on one line and short."""
        return shortened(repr(value))

    def _fits(self, parameter: _Parameter, method: str) -> bool:
        """Whether the method can use the parameter."""
        dotted, name, settings = ".".join(parameter.path), parameter.distribution, parameter.settings
        if method != "grid" or name in ("constant", "categorical"):
            return True
        if name in DISCRETE_RANGES:
            if parameter.count() < 1:  # q_uniform leaves its max out
                only = spelled(settings["min"])
                self.problem(parameter.loc, f"{dotted}: min is max, which a grid leaves out: write {{value: {only}}}")
            return parameter.count() > 0
        if name == "categorical_w_probabilities":
            self.problem(
                (*parameter.loc, "probabilities"), f"{dotted}: a grid takes every value once; no probabilities"
            )
            return False
        hint = "list its points under values, or use method random with run_cap"
        if "distribution" not in settings and is_whole(settings["min"]) and is_whole(settings["max"]):
            low, high = int(settings["min"]), int(settings["max"])
            hint = f"for whole numbers write {{min: {low}, max: {high}}}; else {hint}"
        self.problem(parameter.loc, f"{dotted}: a grid cannot run over the continuous range {name}; {hint}")
        return False


def _wrong_range(name: str, settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """The setting that makes an empty range or no shares, and why."""
    if "min" in settings and settings["min"] > settings["max"]:
        return "min", f"min {settings['min']} is above max {settings['max']}"
    if name.endswith("log_uniform_values") and settings["min"] <= 0:
        return "min", f"min is {settings['min']}; {name} needs min > 0"
    if name == "categorical_w_probabilities":
        weights, values = settings["probabilities"], settings["values"]
        proper = isinstance(weights, list) and all(_is_share(weight) for weight in weights)
        if not proper or len(weights) != len(values) or abs(sum(weights) - 1) > 1e-6:
            return "probabilities", f"probabilities must be {len(values)} shares that add to 1"
    return None


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _kind(value: Any) -> str:
    return "mapping" if isinstance(value, dict) else "list"


def _is_section(path: tuple[str, ...]) -> bool:
    """Whether a path names a section of a run's configuration, rather than a field."""
    model: type[BaseModel] = RunConfig
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return False
        model = field.annotation
    return True


_Draw = list[tuple[_Parameter, Loc, Any]]


def _grid(parameters: list[_Parameter], size: int, document: Document) -> Iterator[_Draw]:
    """The first `size` combinations of the values, the last parameter's varying fastest."""
    counts = [parameter.count() for parameter in parameters]
    for number in range(size):
        indices: list[int] = []
        for base in reversed(counts):
            number, index = divmod(number, base)
            indices.insert(0, index)
        yield [(parameter, *parameter.choice(index)) for parameter, index in zip(parameters, indices, strict=True)]


def _random(parameters: list[_Parameter], size: int, document: Document) -> Iterator[_Draw]:
    """Draw number i depends on i and the parameters alone, so that a higher run_cap adds runs and changes none."""
    content = repr([(p.path, p.distribution, sorted(p.settings.items(), key=str)) for p in parameters])
    for number in range(size):
        random = Random(f"{number} {content}")
        draw: _Draw = []
        for parameter in parameters:
            try:
                draw.append((parameter, *parameter.draw(random)))
            except (OverflowError, ValueError):  # exp, or a step without end
                where, dotted = document.place(parameter.loc), ".".join(parameter.path)
                why = f"{parameter.distribution} gives numbers that are too large"
                raise InputError([f"{where}: {dotted}: {why}"]) from None
        yield draw


def _nested(draw: _Draw) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for parameter, _, value in draw:
        section = config
        for part in parameter.path[:-1]:
            section = section.setdefault(part, {})
        section[parameter.path[-1]] = value
    return config


class _Problems:
    """What is wrong with the runs' configurations, each problem once, at the place of the file that set the value."""

    def __init__(self, document: Document) -> None:
        self.lines: list[str] = []
        self._document = document
        self._seen: set[tuple[Loc, Loc]] = set()
        self._runs = 0

    def enough(self) -> bool:
        """Whether the runs that are left would hardly say anything new."""
        return self._runs >= _ENOUGH

    def add(self, error: ValidationError, draw: _Draw) -> None:
        """Take the problems of a run's configuration; of several at one place of the file, the first."""
        self._runs += 1
        new = []
        for item in error.errors(include_url=False):
            key = (_in_file(item["loc"], draw), item["loc"])
            if key not in self._seen:
                self._seen.add(key)
                new.append(item)
        for loc, message in explain(new, RunConfig, lambda loc: self._document.raw(_in_file(loc, draw))):
            self.lines.append(f"{self._place(loc, draw, 'unknown key' in message)}: {message}{_exponents(loc, draw)}")

    def _place(self, loc: Loc, draw: _Draw, unknown: bool) -> str:
        where = _in_file(loc, draw)
        if unknown:  # point at the key, not at its value
            leaf = _leaf_of(loc, draw)
            where = leaf.loc if leaf and len(leaf.path) == len(loc) else where
        return self._document.place(where)


def _leaf_of(loc: Loc, draw: _Draw) -> _Parameter | None:
    return next((parameter for parameter, _, _ in draw if parameter.path == loc[: len(parameter.path)]), None)


def _in_file(loc: Loc, draw: _Draw) -> Loc:
    """The place in the sweep file of a location in a run's configuration."""
    for parameter, value_loc, _ in draw:
        if loc[: len(parameter.path)] == parameter.path:
            return (*value_loc, *loc[len(parameter.path) :])
    path: Loc = ()  # a field that the file does not set, or a section it does not know
    for part in loc:
        path = (*path, "parameters", part)
    return path


def _exponents(loc: Loc, draw: _Draw) -> str:
    """A hint for a value drawn from a distribution whose bounds are exponents."""
    leaf = _leaf_of(loc, draw)
    if leaf is None or leaf.distribution not in ("log_uniform", "inv_log_uniform", "q_log_uniform"):
        return ""
    return f" (min and max of {leaf.distribution} are exponents of e; those of {leaf.distribution}_values are values)"
