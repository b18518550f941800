"""How a value is written so that YAML reads just that value, and what a text that YAML misread was meant to be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

_NUMBER = re.compile(r"([-+]?)(\d[\d_]*|(?=\.\d))(?:\.([\d_]*))?(?:[eE]([-+]?)(\d+))?")
_NULLS = ("none", "null", "nil", "nan", "~", "")
_LONGEST = 60


def spelled(value: Any) -> str:
    """A value in YAML's flow form, on one line: `[0.1, 1.0e-5]`, `{lr: 0.5}`, `'no'`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{spelled(key)}: {spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(spelled, value)) + "]"
    if isinstance(value, float):
        mantissa, letter, exponent = repr(value).partition("e")  # YAML reads 1e-05 as text
        return f"{mantissa}{'' if '.' in mantissa else '.0'}e{int(exponent):+d}" if letter else mantissa
    text: str = yaml.safe_dump([value], default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removeprefix("[").removesuffix("]\n")


def shortened(text: str) -> str:
    """A text that fits into a message."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def is_number(text: str) -> bool:
    """Whether a text is a decimal number, as people write them."""
    return _NUMBER.fullmatch(text.strip()) is not None


def readings(value: Any) -> Iterator[tuple[Any, str]]:
    """What else a value can have been meant to be, and how that is written: a number that YAML read as text, ..."""
    if isinstance(value, str):
        if is_number(value):
            yield from _numbers(value.strip())
        if value.strip().lower() in ("true", "false"):
            yield value.strip().lower() == "true", value.strip().lower()
        if value.strip().lower() in _NULLS:
            yield None, "null"
    elif isinstance(value, float) and value.is_integer():
        yield int(value), str(int(value))
    elif isinstance(value, list):
        for which in (0, -1):  # every item as a whole number where it can be one, or with a dot
            items = [([*readings(item)] or [(item, spelled(item))])[which] for item in value]
            yield [item for item, _ in items], "[" + ", ".join(text for _, text in items) + "]"


def _numbers(text: str) -> Iterator[tuple[Any, str]]:
    """A decimal number as a whole number, where it is one, and with the dot and the sign that YAML asks for."""
    text = text.replace("_", "")
    match = _NUMBER.fullmatch(text)
    assert match is not None
    sign, whole, fraction, exponent_sign, exponent = match.groups()
    value = float(text)
    if value.is_integer() and abs(value) < 2**53:
        yield int(value), str(int(value))
    if exponent is None:
        if fraction is not None:
            yield value, spelled(value)
    elif abs(value) != float("inf") and (value or not re.search("[1-9]", f"{whole}{fraction}")):
        yield value, f"{sign}{whole or 0}.{fraction or 0}e{exponent_sign or '+'}{int(exponent)}"
