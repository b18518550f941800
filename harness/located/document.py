"""YAML text whose every value knows its file, line and column."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from harness.located.problem import InputError
from harness.located.spelling import is_number, shortened

Loc = tuple[str | int, ...]

MAX_CHARACTERS = 1_000_000
MAX_VALUES = 150_000
"""Of one file, with what its aliases repeat: enough for the seeds of the largest sweep."""
MAX_DEPTH = 50
MAX_WHOLE = 2**63 - 1
"""What a column of a table holds."""

_Items = dict[str, tuple[yaml.Node, yaml.Mark]]
_TAG = "tag:yaml.org,2002:"
_BOOLEANS = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}


@dataclass(frozen=True)
class Document:
    """A parsed YAML (or JSON) text and the place of each of its keys and values."""

    name: str
    data: Any
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

    Merge keys (`<<: *base`) are followed. Raises InputError for text that is empty, not YAML, not a mapping at the top,
    has a key twice, or holds a value of which YAML reads something else than people do (010, 1:30, 2020-01-01).
    """
    document = parse_value(text, name)
    if document.data is None:
        raise InputError([f"{name}:1:1: the file is empty; expected a mapping such as `model: {{width: 0.125}}`"])
    if not isinstance(document.data, dict):
        kind = "list" if isinstance(document.data, list) else f"{type(document.data).__name__}"
        raise InputError([f"{name}:1:1: found a {kind} at the top; expected a mapping of keys"])
    return document


def parse_value(text: str, name: str) -> Document:
    """Parse YAML text that may hold anything. Raises InputError as `parse` does."""
    if len(text) > MAX_CHARACTERS:
        raise InputError([f"{name}:1:1: longer than {MAX_CHARACTERS} characters"])
    in_json = name.endswith(".json") and bool(text.strip())
    data = _read_json(text, name) if in_json else None
    try:
        # in JSON a tab stands between values only, where YAML has none
        node = _Composer(text.replace("\t", " ") if in_json else text).get_single_node()
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = f"{name}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        raise InputError([f"{place}: not YAML: the character {chr(error.character)!r} is not allowed"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else f"{name}:1:1"
        raise InputError([f"{place}: not YAML: {error.problem or error.context}"]) from None
    except (ValueError, OverflowError) as error:  # an escape that is no character
        raise InputError([f"{name}:1:1: not YAML: {error}"]) from None
    if node is None:
        return Document(name, None, text, {}, {})
    reader = _Reader(name, in_json)
    found = reader.value(node, (), node.start_mark)
    if reader.problems:
        raise InputError(reader.problems)
    return Document(name, data if in_json else found, text, reader.marks, reader.raw)


def read(path: Path) -> Document:
    """Read and parse a YAML file; InputError when it is missing or unreadable, or as `parse` says."""
    return parse(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a file, not more than a little above what `parse` takes; InputError when missing or unreadable."""
    try:
        with path.open("rb") as file:
            return file.read(4 * MAX_CHARACTERS).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError([f"{path}: no such file"]) from None
    except UnicodeDecodeError as error:
        raise InputError([f"{path}: cannot be read: not UTF-8 at byte {error.start}"]) from None
    except (OSError, ValueError) as error:
        raise InputError([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from None


def _read_json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError([f"{name}:{error.lineno}:{error.colno}: not JSON: {error.msg}"]) from None
    except (ValueError, RecursionError):  # the same text as YAML says where
        return None


class _Composer(yaml.SafeLoader):
    """Composes nodes that are nested MAX_DEPTH levels at most."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth == MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Misread(Exception):
    """A scalar of which YAML reads something else than people do, or nothing."""


class _Reader:
    """Reads nodes into values, notes the place of each, and collects what is wrong with them."""

    def __init__(self, name: str, in_json: bool) -> None:
        self.name, self.in_json = name, in_json
        self.marks: dict[Loc, tuple[int, int]] = {}
        self.raw: dict[Loc, str] = {}
        self.problems: list[str] = []
        self._inside: list[yaml.Node] = []
        self._known: dict[int, _Items] = {}

    def problem(self, mark: yaml.Mark, message: str) -> None:
        self.problems.append(f"{self.name}:{mark.line + 1}:{mark.column + 1}: {message}")

    def value(self, node: yaml.Node, loc: Loc, mark: yaml.Mark) -> Any:
        """The value of a node. `mark`: its place for messages, that of its key where it has one."""
        if len(self.marks) >= MAX_VALUES:
            self.refuse(mark, f"more than {MAX_VALUES} values, counting what aliases repeat")
        if len(loc) > MAX_DEPTH:
            self.refuse(mark, f"nested deeper than {MAX_DEPTH} levels, counting what aliases repeat")
        self.marks[loc] = (mark.line + 1, mark.column + 1)
        if isinstance(node, yaml.ScalarNode):
            self.raw[loc] = node.value
            try:
                return self._scalar(node)
            except _Misread as misread:
                self.problem(mark, f"found {shortened(node.value)}{misread}")
                return None
        if any(node is other for other in self._inside):
            self.refuse(mark, "an alias stands inside of what it repeats")
        self._inside.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
                return {key: self.value(item, (*loc, key), at) for key, (item, at) in self._items(node).items()}
            if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
                return [self.value(item, (*loc, index), item.start_mark) for index, item in enumerate(node.value)]
        finally:
            self._inside.pop()
        self.problem(node.start_mark, f"the tag {_tag(node)} has no meaning here; expected plain values")
        return None

    def refuse(self, mark: yaml.Mark, message: str) -> NoReturn:
        """End the reading with a problem that leaves no sense to what follows."""
        self.problem(mark, message)
        raise InputError(self.problems)

    def _items(self, node: yaml.MappingNode) -> _Items:
        """The values of a mapping by their keys, those that merge keys bring first, as PyYAML has them."""
        if id(node) in self._known:
            return self._known[id(node)]
        self._inside.append(node)
        own: _Items = {}
        merged: _Items = {}
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or _tag(key) not in ("str", "merge"):
                self.problem(key.start_mark, f"a key must be text, found {_shown_key(key)}")
            elif key.value in seen:
                self.problem(key.start_mark, f"key {shortened(key.value)!r} stands here for the second time")
            elif _tag(key) == "merge":
                for base in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    merged = self._merged(base, key.start_mark) | merged
            else:
                own[key.value] = (value, key.start_mark)
            seen.add(str(key.value))
        self._inside.pop()
        self._known[id(node)] = merged | own
        return self._known[id(node)]

    def _merged(self, base: yaml.Node, mark: yaml.Mark) -> _Items:
        if not isinstance(base, yaml.MappingNode):
            self.problem(mark, "<<: expected an alias of a mapping (*NAME), or a list of such")
            return {}
        if any(base is other for other in self._inside):
            self.refuse(mark, "an alias stands inside of what it repeats")
        return self._items(base)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, tag = node.value, _tag(node)
        if tag == "str":
            if not self.in_json and any("\ud800" <= character <= "\udfff" for character in text):
                raise _Misread(", in which an escape is half a character")
            if not (self.in_json and node.style is None and is_number(text)):
                return text
            tag = "float"  # a number in JSON and a text in YAML, which has 1.0e-5 only
        if tag == "null":
            return None
        if tag == "bool" and text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        if tag == "int":
            return _whole(text)
        if tag == "float":
            return _real(text)
        if tag == "timestamp":
            raise _Misread(", which YAML reads as a date: write it in quotes if text is meant")
        if tag == "bool":
            raise _Misread(f", which is no {tag}")
        if tag in ("value", "merge"):
            raise _Misread(", which has a meaning of its own in YAML: write it in quotes if text is meant")
        raise _Misread(f", and the tag {tag} has no meaning here; expected plain values")


def _tag(node: yaml.Node) -> str:
    return str(node.tag).removeprefix(_TAG)


def _shown_key(key: yaml.Node) -> str:
    if not isinstance(key, yaml.ScalarNode):
        return "a structure"
    reads = {"bool": "true or false", "null": "nothing", "timestamp": "a date"}.get(_tag(key))
    return shortened(key.value) + (f", which YAML reads as {reads}" if reads else "")


def _whole(text: str) -> int:
    digits = text.replace("_", "").lower()
    sign, bare = ("-" if digits.startswith("-") else ""), digits.lstrip("+-")
    if re.fullmatch("0[0-9]+", bare):
        decimal = f"{sign}{bare.lstrip('0') or '0'}"
        try:
            octal = f", which YAML reads as {int(f'{sign}{bare}', 8)}"
        except ValueError:
            octal = ", which is no octal number"
        raise _Misread(f"{octal}; leave the leading zeros out ({decimal}), or write it in quotes if text is meant")
    _refuse_colons(bare)
    try:
        value = int(f"{sign}{bare}", 0) if len(bare) < 100 else None
    except ValueError:
        raise _Misread(", which is no whole number") from None
    if value is None or not -MAX_WHOLE - 1 <= value <= MAX_WHOLE:
        raise _Misread(f", a whole number that is too large; at most {MAX_WHOLE}")
    return value


def _real(text: str) -> float:
    digits = text.replace("_", "").lower()
    _refuse_colons(digits)
    try:
        value = float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", digits))
    except ValueError:
        raise _Misread(", which is no number") from None
    if value in (float("inf"), -float("inf")) and "inf" not in digits:
        raise _Misread(", which is too large a number; at most 1.797e+308")
    if value == 0 and re.search("[1-9]", digits.partition("e")[0]):
        raise _Misread(", which is too small a number to be told from 0; at least 4.941e-324")
    return value


def _refuse_colons(digits: str) -> None:
    """YAML 1.1 reads 1:30 as ninety."""
    if ":" in digits:
        seconds = 0.0
        for part in digits.lstrip("+-").split(":"):
            seconds = seconds * 60 + float(part or 0)
        raise _Misread(f", which YAML reads as {seconds:g}, to the base of 60: write it in quotes if text is meant")
