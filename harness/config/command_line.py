"""The configuration that a command line gives: at most one file, then fields that override it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config.run import RunConfig
from harness.located import Document, InputError, Loc, explain, parse_value, read


def resolve(settings: Sequence[str]) -> RunConfig:
    """The configuration that a command line gives: at most one file (YAML or JSON), then `key=value` fields.

    A file's top-level keys may be dotted too (`optim.lr: 0.1`), as a W&B agent hands over those of a sweep.
    Raises InputError with every problem, each with its place.
    """
    problems: list[str] = []
    documents: list[tuple[Loc, Document, Loc]] = []  # the place that it sets, and where in it that stands
    data: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if equals and not _is_file(setting):
            path = tuple(key.split("."))
            try:
                documents.append((path, parse_value(text, f"command line: {key}"), ()))
            except InputError as error:
                problems += [problem.replace(":1:1: ", ": ", 1) for problem in error.problems]
            else:
                _set(data, path, documents[-1][1].data, problems, f"command line: {key}")
        elif documents and documents[0][0] == ():
            problems.append(f"{setting}: a second configuration file; at most one, then key=value")
        elif documents:
            problems.append(f"{setting}: the configuration file comes before key=value")
        else:
            document = read(Path(setting))
            documents.append(((), document, ()))
            dotted = [key for key in document.data if isinstance(key, str) and "." in key]
            data = {key: value for key, value in document.data.items() if key not in dotted}
            for key in dotted:
                path, where = tuple(key.split(".")), f"{document.place((key,))}: {key}"
                if _has(data, path):
                    problems.append(f"{where}: given twice")
                else:
                    documents.append((path, document, (key,)))
                    _set(data, path, document.data[key], problems, where)
    if problems:
        raise InputError(problems)

    def source(loc: Loc) -> tuple[Document, Loc] | None:
        """The last document that set the value at `loc`, and the value's place in it."""
        for path, document, inside in reversed(documents):
            if loc[: len(path)] == path:
                return document, (*inside, *loc[len(path) :])
        return None

    def raw(loc: Loc) -> str | None:
        found = source(loc)
        return found[0].raw(found[1]) if found else None

    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        for loc, message in explain(error.errors(include_url=False), RunConfig, raw):
            found = source(loc)
            if found is None or found[0].name.startswith("command line"):
                problems.append(f"command line: {message}")
            else:
                problems.append(f"{found[0].place(found[1])}: {message}")
        raise InputError(problems) from None


def _is_file(setting: str) -> bool:
    """Whether a file has this name, `=` and all."""
    try:
        return Path(setting).exists()
    except (OSError, ValueError):  # too long a name, or one that no file can have
        return False


def _has(data: dict[str, Any], path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(data, dict) or part not in data:
            return False
        data = data[part]
    return True


def _set(data: dict[str, Any], path: tuple[str, ...], value: Any, problems: list[str], where: str) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            problems.append(f"{where}: {part} is not a section")
            return
    data[path[-1]] = value
