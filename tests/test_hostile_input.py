"""Absurd, broken and hostile input: the one thing that ever comes of it is InputError, in time, one line a problem."""

import re
import time
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.config import RunConfig
from harness.config.command_line import resolve
from harness.located import InputError
from harness.sweep.distributions import DISTRIBUTIONS
from harness.sweep.expand import expand
from tests.test_advice import FIELDS

SECONDS = 30.0
"""A generous limit for one input on a busy machine; each takes milliseconds."""


def refused(text: str) -> list[str]:
    """The problems of a sweep file, none if it is taken; whatever else comes is a failure of the test."""
    started = time.monotonic()
    try:
        expand(text, "sweep.yaml")
        problems = []
    except InputError as error:
        problems = error.problems
        assert problems
    assert time.monotonic() - started < SECONDS
    for problem in problems:
        assert re.match(r"sweep\.yaml:\d+:\d+: \S", problem), problem
        assert problem.isprintable() and len(problem) < 1000, problem
    return problems


def parameter(field: str, spec: str, head: str = "method: grid\n") -> str:
    *sections, name = field.split(".")
    text, indent = f"{head}parameters:\n", "  "
    for section in sections:
        text += f"{indent}{section}:\n{indent}  parameters:\n"
        indent += "    "
    return f"{text}{indent}{name}: {spec}\n"


RANDOM = "method: random\nrun_cap: 20\n"
ABSURD = [
    ("optim.lr", "{distribution: log_uniform, min: 1000, max: 2000}"),
    ("optim.lr", "{distribution: inv_log_uniform, min: -2000, max: 0}"),
    ("optim.lr", "{distribution: log_uniform, min: -2000, max: 0}"),
    ("optim.lr", "{distribution: log_normal, mu: 800}"),
    ("optim.lr", "{distribution: log_normal, mu: 0, sigma: 1.0e+300}"),
    ("optim.lr", "{distribution: normal, mu: 1.7e+308, sigma: 1.7e+308}"),
    ("optim.lr", "{distribution: beta, a: 1.0e+308, b: 1}"),
    ("optim.lr", "{distribution: beta, a: 1, b: 1.0e-300}"),
    ("optim.lr", "{distribution: uniform, min: -1.0e+308, max: 1.0e+308}"),
    ("optim.lr", "{distribution: q_uniform, min: 0.1, max: 1, q: 5.0e-324}"),
    ("optim.lr", "{distribution: q_log_normal, mu: 0, sigma: 1, q: 1.0e+308}"),
    ("optim.lr", "{distribution: [x], min: 1, max: 2}"),
    ("optim.lr", "{distribution: {x: y}, min: 1, max: 2}"),
    ("optim.lr", "{min: [1], max: {a: 2}}"),
    ("seed", "{values: [1, 2], probabilities: [9223372036854775807, 1]}"),
    ("seed", "{values: [1, 2], probabilities: [true, 0]}"),
    ("seed", "{values: [1, 2], probabilities: [.nan, 1]}"),
    ("seed", "{values: [1, 2], probabilities: {a: 1}}"),
    ("seed", f"{{values: [1, 2], probabilities: [{'9' * 400}, 1]}}"),
    ("model.repeats", "{value: [1000000, 1, 1]}"),
    ("model.width", "{value: 1.0e+308}"),
    ("model.weights", "{value: /dev/zero}"),
    ("model.weights", f"{{value: {'x' * 300}}}"),
    ("model.weights", '{value: "a\\0b"}'),
    ("optim.lr", "{value: 1.0e+39}"),
    ("optim.betas", "{value: [1, 1]}"),
    ("seed", "{value: -1}"),
    ("seed", "{}"),
    ("seed", "{value: 1, value: 2}"),
    ("seed", "{parameters: {value: 1}}"),
    ("seed", "{parameters: {parameters: {parameters: {value: 1}}}}"),
    ("optim.lr.x.y", "{value: 1}"),
    ("sede.x", "{value: 1}"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "spec"), ABSURD)
def test_an_absurd_parameter_is_refused_once(field: str, spec: str) -> None:
    assert len(refused(parameter(field, spec, RANDOM))) == 1


@pytest.mark.parametrize(
    "spec", ["{distribution: q_uniform, min: 8, max: 8}", "{distribution: beta, a: 1.0e-6, b: 1.0e+6}"]
)
def test_a_degenerate_distribution_is_drawn_from(spec: str) -> None:
    assert not refused(parameter("optim.weight_decay", spec, RANDOM))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "value", ["9223372036854775807", "-9223372036854775808", "1.7e+308", "-1.0e-300", "[]", "{}", "''"]
)
def test_every_field_has_its_limits(field: str, value: str) -> None:
    if value == "9223372036854775807" and not refused(parameter(field, "{value: 0.5}")):
        value = "9.3e+37"  # of a real number the largest whole one is none too large
    assert refused(parameter(field, f"{{value: {value}}}")) or field == "seed"


def kinds(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The kinds of value that a field takes, of a list each kind of item."""
    inner = [
        *schema.get("anyOf", []),
        *schema.get("prefixItems", []),
        *([schema["items"]] if "items" in schema else []),
    ]
    return [schema, *(kind for part in inner for kind in kinds(part))]


def test_the_schema_states_the_limits_of_every_field() -> None:
    schema = RunConfig.model_json_schema()
    limits = {"integer": "maximum", "number": "imum", "string": "maxLength", "array": "maxItems"}
    for section in [schema, *schema["$defs"].values()]:
        for name, field in section["properties"].items():
            for kind in kinds(field):
                free = kind.get("type") in limits and not {"enum", "const", "pattern"} & set(kind)
                stated = [limit for limit in kind if limits.get(kind.get("type", ""), "-").lower() in limit.lower()]
                assert not free or stated, f"{section['title']}.{name}: {kind}"


texts = st.text(max_size=12) | st.sampled_from(
    ["x" * 5000, "\x1b[31m", "[bold]", "\0", "/", "..", "1e5", "*", "&a", "<<", "=", "null", "\n", "\u202e", "\ud800"]
)
scalars: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**400])
    | st.floats()
    | texts.filter(lambda text: not any("\ud800" <= character <= "\udfff" for character in text))
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["value", "lr", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)
numbers = st.integers(-3, 3000) | st.floats() | scalars
specs = st.fixed_dictionaries(
    {},
    optional={
        "distribution": st.sampled_from(sorted(DISTRIBUTIONS)) | scalars,
        "value": values,
        "values": st.lists(values, max_size=4) | values,
        "probabilities": st.lists(numbers, max_size=4) | scalars,
        **dict.fromkeys(("min", "max", "q", "mu", "sigma", "a", "b"), numbers),
    },
)
likely = st.sampled_from(sorted(DISTRIBUTIONS)).flatmap(
    lambda name: st.fixed_dictionaries(
        {
            "distribution": st.just(name),
            **{
                key: st.lists(values, min_size=1, max_size=3) if key == "values" else numbers
                for key in DISTRIBUTIONS[name].needs
            },
        },
        optional=dict.fromkeys(DISTRIBUTIONS[name].defaults, numbers),
    )
)


def nested(field: str, spec: Any) -> dict[str, Any]:
    *sections, name = field.split(".")
    found: dict[str, Any] = {name: spec}
    for section in reversed(sections):
        found = {section: {"parameters": found}}
    return found


parameters = st.builds(
    nested, st.sampled_from(FIELDS) | st.sampled_from(["optim", "model.x", "x"]), likely | specs | values
)
files = st.fixed_dictionaries(
    {"method": st.sampled_from(["grid", "random"]) | scalars, "parameters": parameters},
    optional={
        "run_cap": st.integers(1, 30) | scalars,
        "name": values,
        "description": values,
        "metric": values,
        "x": values,
    },
)


def dumped(data: Any) -> str:
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


@given(files)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_sweep_file_is_taken_or_refused_in_its_place(data: dict[str, Any]) -> None:
    refused(dumped(data))


GOOD = """\
name: &name good
method: random
run_cap: 3
parameters:
  base: &base {value: 0.1}
  seed: {min: 0, max: 9}
  optim:
    parameters:
      lr: {distribution: log_uniform_values, min: 0.01, max: 1}
      weight_decay: {<<: *base}
"""
pieces = (
    st.sampled_from([*"{}[]:,&*!|>%@`'\"#-?<=~\n\t \\0159.", "!!bool ", "!!int ", "<<: ", "*base", "*name", "&base "])
    | texts
)


@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 6), pieces), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_damage_to_a_file_is_refused_in_its_place(edits: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for start, length, piece in edits:
        text = text[:start] + piece + text[start + length :]
    refused(text)


@given(
    st.text("abc=.[]{}:*&!'\"\\\n\0", max_size=10)
    | st.builds("{}={}".format, st.sampled_from(FIELDS), texts | scalars.map(repr))
)
@settings(max_examples=200, deadline=None)
def test_any_setting_is_taken_or_refused_in_one_line(setting: str) -> None:
    started = time.monotonic()
    try:
        resolve([setting])
    except InputError as error:
        assert all(problem.isprintable() for problem in error.problems)
    assert time.monotonic() - started < SECONDS


@pytest.mark.slow
@given(files | st.just({}))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_many_sweep_files_are_taken_or_refused_in_their_place(data: dict[str, Any]) -> None:
    refused(dumped(data))
