"""What stands in a run's config.json as columns: dotted names, and a number for each stage as one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.config import RunConfig


def columns(config: RunConfig) -> dict[str, Any]:
    """Every field of a configuration by its dotted name; several numbers are one text, see `text_of`."""
    fields = flat(config.model_dump(mode="json"))
    return {name: text_of(value) if isinstance(value, list) else value for name, value in fields.items()}


def flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted names: {"a": {"b": 1}} becomes {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def text_of(numbers: Sequence[float]) -> str:
    """Numbers as one text, `2/4/8`, as tables and the index show them."""
    return "/".join(f"{number:g}" for number in numbers)


def numbers_of(text: str) -> tuple[float, ...]:
    """The numbers that `text_of` made a text of, to six digits."""
    return tuple(float(number) for number in text.split("/"))
