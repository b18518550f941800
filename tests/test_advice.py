"""Advice in messages: whoever follows it is let in. No message may send its reader into the next refusal."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from harness.config import RunConfig
from harness.config.command_line import resolve
from harness.located import InputError
from harness.sweep.expand import expand


def leaves(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Dotted names of all fields."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{path}{name}.")
        else:
            yield f"{path}{name}"


FIELDS = tuple(leaves(RunConfig))


def refusal(*settings: str) -> list[str]:
    try:
        resolve(settings)
    except InputError as error:
        return error.problems
    return []


def advice(problem: str) -> str | None:
    """What a message says to write in place of a value."""
    found = re.search(r": write (.+?)(?: without quotes)?$", problem)
    return found and found[1]


def of_field(field: str, problems: list[str]) -> list[str]:
    """Those that refuse the field's own value; a field that only another optimizer has is another matter."""
    return [problem for problem in problems if problem.startswith(f"command line: {field}: found")]


@pytest.mark.parametrize(
    ("setting", "written"),
    [
        ("train.steps=1e1", "10"),
        ("train.steps=1.0e+1", "10"),
        ("train.steps=10.0", "10"),
        ("train.steps='10'", "10"),
        ("train.steps=08", "8"),
        ("seed=1_0e0", "10"),
        ("optim.lr=1e-4", "1.0e-4"),
        ("optim.lr=1.55e1", "1.55e+1"),
        ("optim.lr=.55E1", "0.55e+1"),
        ("optim.lr=1.23456789012e-4", None),
        ("optim.lr='0.1'", "0.1"),
        ("optim.lr='1'", "1"),
        ("optim.lr=1e2", "100"),
        ("optim.lr=1e-400", None),
        ("optim.lr=1e400", None),
        ("optim.lr=-1e-4", None),
        ("model.stem=None", "null"),
        ("model.residual_scale=[1e-1, 0.2, 3e-1]", "[1.0e-1, 0.2, 3.0e-1]"),
        ("model.residual_scale=1e-1", "1.0e-1"),
        ("model.repeats=[1.0, 2, '3']", "[1, 2, 3]"),
        ("train.compile='true'", "true"),
        ("data.root=5", "'5'"),
        ("data.root=no", "'no'"),
        ("data.root=1.50", "'1.50'"),
        ("model.batch_norm=no", None),
        ("model.activation=off", None),
    ],
)
def test_what_a_message_says_to_write_is_taken(setting: str, written: str | None) -> None:
    field = setting.partition("=")[0]
    problems = refusal(setting)
    assert len(problems) == (written is not None or "1.2345" not in setting)
    if problems:
        assert advice(problems[0]) == written
    if written is not None:
        assert not of_field(field, refusal(f"{field}={written}"))


@pytest.mark.parametrize(("text", "number"), [("010", "10"), ("-00", "-0"), ("0_1_7", "17"), ("08", "8")])
def test_a_number_is_taken_without_its_leading_zeros(text: str, number: str) -> None:
    (problem,) = refusal(f"model.residual_scale={text}")
    assert number in problem
    assert not of_field("model.residual_scale", refusal(f"model.residual_scale={number.lstrip('-')}"))


@pytest.mark.parametrize("text", ["2020-01-01", "1:30", "010", "=", "<<"])
def test_what_is_to_be_written_in_quotes_is_taken_in_quotes(text: str) -> None:
    (problem,) = refusal(f"data.root={text}")
    assert "write it in quotes if text is meant" in problem
    assert not of_field("data.root", refusal(f"data.root='{text}'"))


odd_numbers = st.from_regex(r"[-+]?[0-9_]{0,3}\.?[0-9]{0,3}([eE][-+]?[0-9]{1,3})?", fullmatch=True)
odd_words = st.sampled_from(
    ["yes", "No", "on", "True", "none", "None", "null", "~", "nan", "inf", "", "auto", "all", "0x1f"]
)
odd_scalars = odd_numbers | odd_words | st.builds("'{}'".format, odd_numbers | odd_words)
odd_values = odd_scalars | st.lists(odd_scalars, min_size=1, max_size=3).map(lambda items: f"[{', '.join(items)}]")


@given(st.sampled_from(FIELDS), odd_values)
@example("seed", "1_E310")
@settings(max_examples=300, deadline=None)
def test_every_refusal_is_one_line_and_its_advice_is_taken(field: str, text: str) -> None:
    for problem in refusal(f"{field}={text}"):
        assert problem.startswith("command line: ") and "\n" not in problem and len(problem) < 700
        written = advice(problem)
        if written is not None:
            assert not of_field(field, refusal(f"{field}={written}")), problem


# -- sweep files ---------------------------------------------------------------------------------------------------------

HEAD = "method: grid\nparameters:\n"
LR = "  optim:\n    parameters:\n      lr: "


def sweep_problems(text: str) -> list[str]:
    try:
        expand(text, "sweep.yaml")
    except InputError as error:
        return error.problems
    return []


@pytest.mark.parametrize(
    ("text", "message", "mended"),
    [
        ("  seed: 1\n", "write `seed: {value: 1}`", "  seed: {value: 1}\n"),
        ("  seed: '1'\n", "write `seed: {value: 1}`", "  seed: {value: 1}\n"),
        ("  seed: 1e1\n", "write `seed: {value: 10}`", "  seed: {value: 10}\n"),
        ("  seed: [1, 2]\n", "write `seed: {values: [1, 2]}`", "  seed: {values: [1, 2]}\n"),
        (LR + "[1.0e-1, 0.2]\n", "write `lr: {values: [0.1, 0.2]}`", LR + "{values: [0.1, 0.2]}\n"),
        (LR + "1e-4\n", "write `lr: {value: 1.0e-4}`", LR + "{value: 1.0e-4}\n"),
        ("  model: {parameters: {repeats: [1, 1, 1]}}\n", "write `repeats: {value: [1, 1, 1]}`", "  model: {parameters: {repeats: {value: [1, 1, 1]}}}\n"),
        ("  optim: sgd\n  seed: {value: 1}\n", "expected a mapping with value, values, min and max, or parameters", "  optim: {parameters: {name: {value: sgd}}}\n"),
        ("  optim:\n  seed: {value: 1}\n", "optim: found nothing; leave it out", "  seed: {value: 1}\n"),
        ("  seed:\n  optim: {value: {lr: 0.1}}\n", "seed: found nothing; leave it out", "  optim: {value: {lr: 0.1}}\n"),
        ("  model: {width: 0.5}\n", "`model: {parameters: {width: ...}}`", "  model: {parameters: {width: {value: 0.5}}}\n"),
        ("  seed: {min: 0.0, max: 3}\n", "for whole numbers write {min: 0, max: 3}", "  seed: {min: 0, max: 3}\n"),
        ("  seed: {min: 0, max: 1e1}\n", "max is '1e1': write 10", "  seed: {min: 0, max: 10}\n"),
        ("  seed: {min: 0, max: 20_000_000}\n", "set run_cap to that or less", "  seed: {min: 0, max: 20_000_000}\nrun_cap: 3\n"),
        (LR + "{min: 0.1, max: 0.2}\n", "or use method random with run_cap", "  optim: {parameters: {lr: {values: [0.1, 0.2]}}}\n"),
        (LR + "{distribution: q_uniform, min: 1, max: 1}\n", "write {value: 1}", LR + "{value: 1}\n"),
        ("  seed: {values: [1, 2], probabilities: [0.5, 0.5]}\n", "no probabilities", "  seed: {values: [1, 2]}\n"),
    ],
)  # fmt: skip
def test_a_sweep_file_mended_as_its_message_says_is_taken(text: str, message: str, mended: str) -> None:
    (problem,) = sweep_problems(HEAD + text)
    assert message in problem
    assert not sweep_problems(HEAD + mended)


@pytest.mark.parametrize(
    ("spec", "message", "mended"),
    [
        ("{distribution: log_uniform, min: 0.001, max: 0.1}", "0.001 to 0.1 gives values from 1.001 to 1.105; use log_uniform_values", "{distribution: log_uniform_values, min: 0.001, max: 0.1}"),
        ("{distribution: inv_log_uniform, min: 0.001, max: 0.1}", "gives values from 0.9048 to 0.999; use inv_log_uniform_values", "{distribution: inv_log_uniform_values, min: 0.001, max: 0.1}"),
        ("{distribution: q_log_uniform, min: 1000, max: 2000}", "e to 1000 is too large a number; for the values themselves use q_log_uniform_values", "{distribution: q_log_uniform_values, min: 1000, max: 2000}"),
        ("{distribution: log_uniform, min: 1, max: 100}", "are exponents of e; those of log_uniform_values are values", "{distribution: log_uniform_values, min: 1, max: 100}"),
    ],
)  # fmt: skip
def test_bounds_taken_for_exponents_are_told_from_values(spec: str, message: str, mended: str) -> None:
    head = "method: random\nrun_cap: 20\nparameters:\n"
    (problem,) = sweep_problems(head + LR + spec)
    assert message in problem
    assert not sweep_problems(head + LR + mended)


@given(st.sampled_from(FIELDS), odd_values)
@settings(max_examples=150, deadline=None)
def test_a_bare_value_is_shown_as_a_parameter(field: str, text: str) -> None:
    *sections, name = field.split(".")
    indent = "  "
    head = HEAD
    for section in sections:
        head += f"{indent}{section}:\n{indent}  parameters:\n"
        indent += "    "
    for problem in sweep_problems(f"{head}{indent}{name}: {text}\n"):
        assert problem.startswith("sweep.yaml:") and "\n" not in problem
        found = re.search("; write `(.*)`$", problem)
        if found:
            after = sweep_problems(f"{head}{indent}{found[1]}\n")
            assert not [again for again in after if f"{field}: found" in again], problem
