"""Glob patterns over dotted names, and the names that a wrong one came close to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Sequence


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a dotted name matches a pattern.

    `*` and `?` stay within one part of the name, `**` stands for any number of parts, none included, and `[ab]` for one
    of the letters: `**.relu*` matches `relu` and `layer1.0.relu2`, `layer1.*` matches `layer1.0` but not
    `layer1.0.conv1`.
    """
    expression = ""
    rest = re.sub(r"\*\*(\.\*\*)+", "**", pattern)  # any number of parts, and again: any number
    while rest:
        if rest.startswith("**."):
            expression, rest = expression + r"(?:.*\.)?", rest[3:]
        elif rest == ".**":
            expression, rest = expression + r"(?:\..*)?", ""
        elif rest.startswith("**"):
            expression, rest = expression + ".*", rest[2:]
        elif rest[0] == "*":
            expression, rest = expression + r"[^.]*", rest[1:]
        elif rest[0] == "?":
            expression, rest = expression + r"[^.]", rest[1:]
        elif (letters := re.match(r"\[([^\[\]]+)\]", rest)) is not None and re.search(r"\W", letters[1]) is None:
            expression, rest = expression + letters[0], rest[letters.end() :]
        else:
            expression, rest = expression + re.escape(rest[0]), rest[1:]
    compiled = re.compile(expression)
    return lambda name: compiled.fullmatch(name) is not None


def near(pattern: str, names: Collection[str], count: int = 5) -> str:
    """` near: a, b`, the names closest to a pattern that matched none, or nothing."""
    plain = pattern.replace("**.", "").replace("*", "")
    last_parts = {name.rpartition(".")[2]: name for name in reversed(list(names))}
    close = difflib.get_close_matches(pattern.replace("*", ""), names, count, 0.6)
    close += [last_parts[part] for part in difflib.get_close_matches(plain, last_parts, count, 0.6)]
    found = list(dict.fromkeys(close))[:count]
    return f"; near: {', '.join(found)}" if found else ""


def suggestion(word: str, allowed: Sequence[str]) -> str:
    """`; did you mean 'width'? allowed: ...`, the first part only where something is near."""
    close = difflib.get_close_matches(word, allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} allowed: {', '.join(sorted(allowed))}"
