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

    Raises InputError with every problem, each with its place.
    """
    problems: list[str] = []
    documents: list[tuple[Loc, Document]] = []
    data: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if equals and not _is_file(setting):
            path = tuple(key.split("."))
            try:
                documents.append((path, parse_value(text, f"command line: {key}")))
            except InputError as error:
                problems += [problem.replace(":1:1: ", ": ", 1) for problem in error.problems]
            else:
                _set(data, path, documents[-1][1].data, problems, key)
        elif documents and documents[0][0] == ():
            problems.append(f"{setting}: a second configuration file; at most one, then key=value")
        elif documents:
            problems.append(f"{setting}: the configuration file comes before key=value")
        else:
            documents.append(((), read(Path(setting))))
            data = documents[0][1].data
    if problems:
        raise InputError(problems)

    def source(loc: Loc) -> tuple[Document, Loc] | None:
        """The last document that set the value at `loc`, and the value's place in it."""
        for path, document in reversed(documents):
            if loc[: len(path)] == path:
                return document, loc[len(path) :]
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


def _set(data: dict[str, Any], path: tuple[str, ...], value: Any, problems: list[str], key: str) -> None:
    for part in path[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            problems.append(f"command line: {key}: {part} is not a section")
            return
    data[path[-1]] = value
