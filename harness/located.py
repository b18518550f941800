"""YAML text whose every value knows its file, line and column, and the errors that say so."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from harness.patterns import suggestion

Loc = tuple[str | int, ...]


class InputError(Exception):
    """Unusable input: every problem at once, each a line `place: what was found, what is allowed`. Exit code 2."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Document:
    """A parsed YAML (or JSON) mapping and the place of each of its keys and values."""

    name: str
    data: dict[str, Any]
    text: str
    _marks: dict[Loc, tuple[int, int]]
    _raw: dict[Loc, str]

    def place(self, loc: Loc) -> str:
        """`file:line:column` of the value at `loc`, or of the nearest thing around it that is in the file."""
        while loc and loc not in self._marks:
            loc = loc[:-1]
        line, column = self._marks.get(loc, (1, 1))
        return f"{self.name}:{line}:{column}"

    def raw(self, loc: Loc) -> str | None:
        """The scalar as it is written in the file, before YAML gave it a type."""
        return self._raw.get(loc)


def parse(text: str, name: str) -> Document:
    """Parse YAML text whose top level is a mapping; JSON where the name ends in .json.

    Raises InputError for text that is empty, not YAML, not a mapping at the top, or has a key twice.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        # a W&B agent writes 1e-05, a number in JSON and a text in PyYAML's YAML
        data = json.loads(text) if name.endswith(".json") and text.strip() else yaml.safe_load(text)
    except json.JSONDecodeError as error:
        raise InputError([f"{name}:{error.lineno}:{error.colno}: not JSON: {error.msg}"]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else f"{name}:1:1"
        raise InputError([f"{place}: not YAML: {getattr(error, 'problem', None) or error}"]) from None
    except ValueError as error:  # PyYAML builds dates while it reads
        raise InputError([f"{name}:1:1: not YAML: {error}"]) from None
    if data is None:
        raise InputError([f"{name}:1:1: the file is empty; expected a mapping such as `model: {{width: 0.125}}`"])
    if not isinstance(data, dict):
        raise InputError([f"{name}:1:1: found a {type(data).__name__} at the top; expected a mapping of keys"])
    marks: dict[Loc, tuple[int, int]] = {}
    raw: dict[Loc, str] = {}
    problems: list[str] = []

    def visit(node: yaml.Node, loc: Loc, mark: yaml.Mark) -> None:
        marks[loc] = (mark.line + 1, mark.column + 1)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                place = f"{name}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
                if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                    problems.append(f"{place}: a key must be text, found {getattr(key, 'value', 'a structure')!r}")
                    continue
                if key.value in seen:
                    problems.append(f"{place}: key {key.value!r} stands here for the second time")
                seen.add(key.value)
                visit(value, (*loc, key.value), key.start_mark)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                visit(item, (*loc, index), item.start_mark)
        elif isinstance(node, yaml.ScalarNode):
            raw[loc] = node.value

    assert node is not None
    visit(node, (), node.start_mark)
    if problems:
        raise InputError(problems)
    return Document(name, data, text, marks, raw)


def read(path: Path) -> Document:
    """Read and parse a YAML file; InputError when it is missing or unreadable, or as `parse` says."""
    return parse(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a file; InputError when it is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError([f"{path}: no such file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError([f"{path}: cannot be read: {error}"]) from None


def _allowed_keys(model: type[BaseModel], loc: Loc) -> list[str]:
    """Keys of the section at `loc` of a nested model."""
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return list(model.model_fields)


def _found(value: Any, raw: str | None) -> str:
    if isinstance(value, bool) and raw is not None and raw.lower() not in ("true", "false"):
        return f"found {raw}, which YAML reads as {str(value).lower()}: write it in quotes if text is meant"
    if isinstance(value, str) and _is_number(value):
        if "e" not in value.lower():
            return f"found the text {value!r}: write it without quotes"
        mantissa, exponent = f"{float(value):e}".split("e")
        return f"found {value}, which YAML reads as text: write {float(mantissa)}e{int(exponent):+d}"
    if isinstance(value, dict):
        return "found a mapping"
    return f"found {'nothing' if value is None else repr(value)}"


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def explain(error: ValidationError, model: type[BaseModel], raw: Any) -> list[tuple[Loc, str]]:
    """Every problem of a pydantic error as (location in the configuration, message in the project's words).

    `raw(loc)` gives the scalar at a location as the user wrote it, or None.
    """
    problems: list[tuple[Loc, str]] = []
    for item in error.errors(include_url=False):
        loc: Loc = tuple(item["loc"])
        dotted = ".".join(str(part) for part in loc)
        kind, message = item["type"], item["msg"]
        if kind == "extra_forbidden":
            keys = _allowed_keys(model, loc[:-1])
            problems.append((loc, f"{dotted}: unknown key{suggestion(str(loc[-1]), keys)}"))
            continue
        if kind == "unusable":
            problems.append((loc, f"{dotted}: {message}"))
            continue
        found = _found(item["input"], raw(loc))
        if kind == "literal_error":
            expected = item["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            word = item["input"] if isinstance(item["input"], str) else ""
            problems.append((loc, f"{dotted}: {found}{suggestion(word, expected)}"))
            continue
        message = message.replace("Input should be", "expected").replace("valid ", "")
        problems.append((loc, f"{dotted}: {found}; {message}"))
    return problems
