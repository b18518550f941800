"""Reading YAML: every value with its place, as W&B reads it, and refused where YAML reads what nobody means."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.located import InputError, parse, parse_value, read, spelled
from harness.located.document import MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES


def problems(text: str, name: str = "file.yaml") -> list[str]:
    with pytest.raises(InputError) as caught:
        parse(text, name)
    return caught.value.problems


# -- what is read --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a: {b: [1, 2.5, text, null, true, 'no']}",
        "a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}",
        "a: &x {b: 1, c: 2}\ne: &y {c: 4, f: 5}\nd: {<<: [*x, *y], b: 3}",
        "a: &x {b: 1}\nc: &y {<<: *x, d: 2}\ne: {<<: *y}",
        "a: {<<: {b: 1}, c: 2}",
        "a: [0x1f, 0b101, 1_000, -3, +4, .5, 1., 1.5e+3, -2.0e-3, .inf, ~, Yes, OFF]",
        'a: "\\u00e9 \\t"\nb: |\n  two\n  lines\n',
        "%YAML 1.1\n---\na: 1\n",
    ],
)
def test_a_document_holds_what_pyyaml_and_so_wandb_reads(text: str) -> None:
    found = parse(text, "file.yaml").data
    assert found == yaml.safe_load(text)
    assert list(found) == list(yaml.safe_load(text))


def test_merged_values_have_the_place_where_they_are_written() -> None:
    document = parse("base: &base\n  lr: 1e-4\nsgd:\n  <<: *base\n  momentum: 0.5\n", "file.yaml")
    assert document.place(("sgd", "lr")) == "file.yaml:2:3"
    assert document.raw(("sgd", "lr")) == "1e-4"
    assert document.place(("sgd", "momentum")) == "file.yaml:5:3"


def test_json_has_the_numbers_of_json_and_may_be_indented_with_tabs() -> None:
    text = '{\n\t"optim": {"lr": 1e-05, "eps": 1E3},\n\t"name": "\\/ \\ud83d\\ude00"\n}\n'
    document = parse(text, "run.json")
    assert document.data == json.loads(text)
    assert document.place(("optim", "eps")) == "run.json:2:25"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc<=", max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
@settings(max_examples=60, deadline=None)
def test_what_is_spelled_reads_back_as_it_was(value: Any) -> None:
    if isinstance(value, float) and value == 0:
        value = 0.0  # -0.0 is spelled -0.0 and equal anyway
    assert "\n" not in spelled(value)
    assert parse_value(spelled(value), "text").data == value
    assert yaml.safe_load(spelled(value)) == value


# -- what is refused, in its place ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 010", "1:1: found 010, which YAML reads as 8; leave the leading zeros out (10), or write it in quotes"),
        ("a: -007", "1:1: found -007, which YAML reads as -7; leave the leading zeros out (-7)"),
        ("a:\n- 1\n- 1:30", "3:3: found 1:30, which YAML reads as 90, to the base of 60"),
        ("a: 1:30.5", "found 1:30.5, which YAML reads as 90.5, to the base of 60"),
        ("a: 2020-01-01", "found 2020-01-01, which YAML reads as a date: write it in quotes"),
        ("a: 9223372036854775808", "a whole number that is too large; at most 9223372036854775807"),
        ("a: -9223372036854775809", "a whole number that is too large"),
        (f"a: {'9' * 5000}", " ..., a whole number that is too large"),
        ("a: 0xffffffffffffffffff", "a whole number that is too large"),
        ("a: 1.0e+400", "found 1.0e+400, which is too large a number"),
        ("a: 1.0e-400", "found 1.0e-400, which is too small a number to be told from 0"),
        ("a: !!bool abc", "1:1: found abc, which is no bool"),
        ("a: !!int abc", "found abc, which is no whole number"),
        ("a: !!float abc", "found abc, which is no number"),
        ("a: !!timestamp abc", "found abc, which YAML reads as a date"),
        ("a: !!binary aGk=", "the tag binary has no meaning here"),
        ("a: !!set {b, c}", "1:4: the tag set has no meaning here"),
        ("a: !!python/object/apply:os.system [ls]", "the tag python/object/apply:os.system has no meaning here"),
        ("a: =", "found =, which has a meaning of its own in YAML"),
        ('a: "\\ud800"', "in which an escape is half a character"),
        ('a: "\\UFFFFFFFF"', "1:1: not YAML"),
        ("a: \x1b[31m", "1:4: not YAML: the character '\\x1b' is not allowed"),
        ("a: 1\nb: *c", "2:4: not YAML: found undefined alias 'c'"),
        ("a: &x [*x]", "an alias stands inside of what it repeats"),
        ("a: &x {b: *x}", "an alias stands inside of what it repeats"),
        ("a: &x {<<: *x}", "1:8: an alias stands inside of what it repeats"),
        ("a: {<<: &x {<<: *x}}", "an alias stands inside of what it repeats"),
        ("a: {<<: 1}", "1:5: <<: expected an alias of a mapping"),
        ("a: {b: 1, b: 2}", "1:11: key 'b' stands here for the second time"),
        ("1: a", "1:1: a key must be text, found 1"),
        ("no: a", "a key must be text, found no, which YAML reads as true or false"),
        ("? [a]\n: b", "1:3: a key must be text, found a structure"),
        ("a: 1\n--- \nb: 2", "not YAML: but found another document"),
        (f"a: {'[' * 600}{']' * 600}", "not YAML: nested deeper than 50 levels"),
        ("{a: " * 100_000, "not YAML: nested deeper than 50 levels"),
        ("a" * (MAX_CHARACTERS + 1), "1:1: longer than 1000000 characters"),
    ],
)  # fmt: skip
def test_a_text_that_yaml_misreads_is_refused_in_one_line(text: str, message: str) -> None:
    (found,) = problems(text)
    assert found.startswith("file.yaml:") and message in found
    assert "\n" not in found and len(found) < 200


def chain(step: str, count: int, first: str) -> str:
    """Anchors a0, a1, ...: each of them `step` with the one before in it."""
    return "\n".join([f"k0: &a0 {first}", *(f"k{i}: &a{i} {step.format(f'*a{i - 1}')}" for i in range(1, count))])


def test_an_alias_bomb_is_counted_before_it_goes_off() -> None:
    (found,) = problems(chain("[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]", 12, "[1, 1, 1, 1]"))
    assert f"more than {MAX_VALUES} values, counting what aliases repeat" in found
    (found,) = problems(chain("[[[{0}]]]", 40, "1"))
    assert f"nested deeper than {MAX_DEPTH} levels, counting what aliases repeat" in found
    merges = parse(chain("{{<<: [{0}, {0}, {0}]}}", 200, "{b: 1}"), "file.yaml").data
    assert merges["k199"] == {"b": 1}


def test_json_is_refused_in_its_own_words() -> None:
    assert problems("{a: 1}", "run.json") == [
        "run.json:1:2: not JSON: Expecting property name enclosed in double quotes"
    ]
    assert (
        "run.json:1:2: found 9223372036854775808, a whole number"
        in problems('{"a": 9223372036854775808}', "run.json")[0]
    )
    assert "too small a number" in problems('{"a": 1e-400}', "run.json")[0]
    assert "nested deeper" in problems('{"a": ' + "[" * 5000 + "]" * 5000 + "}", "run.json")[0]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/dev/zero", "longer than"),
        ("\0", "cannot be read"),
        ("x" * 300, "File name too long"),
        (".", "Is a directory"),
    ],
)
def test_what_is_no_file_of_text_is_refused(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(Path(path))


def test_a_file_that_is_not_text_says_at_which_byte(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: \xff")
    with pytest.raises(InputError, match="not UTF-8 at byte 3"):
        read(tmp_path / "x.yaml")
    (tmp_path / "y.yaml").write_bytes(b"\xef\xbb\xbfa: 1")  # as Windows' editors write it
    assert read(tmp_path / "y.yaml").data == {"a": 1}


def test_messages_move_no_cursor() -> None:
    error = InputError(["a\x1b[31m\nb\u202e\udc80", "é – ±"])
    assert error.problems == ["a\\x1b[31m\\nb\\u202e\\udc80", "é – ±"]
