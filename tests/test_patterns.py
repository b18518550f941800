"""Glob patterns over dotted names, against a reference that takes them part by part."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.patterns import matcher

LETTERS = "abR1_"
NAMES = st.lists(st.text(LETTERS, min_size=1, max_size=3), min_size=1, max_size=4).map(".".join)
PIECES = st.sampled_from([*LETTERS, "*", "?", "[ab]", "[R1_]"])
PARTS = st.just("**") | st.lists(PIECES, min_size=1, max_size=3).map("".join).filter(lambda part: "**" not in part)
PATTERNS = st.lists(PARTS, min_size=1, max_size=4).map(".".join)


def reference(pattern: list[str], name: list[str]) -> bool:
    """Whether the parts of a name match those of a pattern; `**` is a part of its own."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(reference(pattern[1:], name[skipped:]) for skipped in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and reference(pattern[1:], name[1:])


@given(PATTERNS, NAMES)
@example("a.**", "a")
@example("**.a", "a")
@example("a.**.**", "a")
@example("a.**.b", "a.b")
def test_a_pattern_matches_what_the_reference_does(pattern: str, name: str) -> None:
    assert matcher(pattern)(name) == reference(pattern.split("."), name.split("."))


@given(NAMES)
def test_a_name_matches_itself_and_everything_matches_every_name(name: str) -> None:
    assert matcher(name)(name) and matcher("**")(name)
    assert not matcher(name)(name + "a") and not matcher(name)(f"{name}.a")


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        ("**.relu*", ("relu", "layer1.0.relu2"), ("relu.x", "prelu")),
        ("layer1.*", ("layer1.0",), ("layer1", "layer1.0.conv1")),
        ("block/b0[12].**", ("block/b01", "block/b02.sum.rms"), ("block/b03",)),
        ("a+(b", ("a+(b",), ("aab",)),
        ("x[-]", ("x[-]",), ("x-",)),
    ],
)
def test_what_the_docstring_says(pattern: str, matched: tuple[str, ...], others: tuple[str, ...]) -> None:
    assert all(map(matcher(pattern), matched)) and not any(map(matcher(pattern), others))
