"""The problems that pydantic finds, in the project's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.located.document import Loc
from harness.located.spelling import is_number, readings, shortened, spelled
from harness.patterns import suggestion

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "model_type": "a section, a mapping of its fields",
    "finite_number": "a finite number",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} character",
    "expected": "{expected}",
}


def explain(
    problems: Iterable[ErrorDetails], model: type[BaseModel], raw: Callable[[Loc], str | None]
) -> Iterator[tuple[Loc, str]]:
    """Problems of a pydantic error as (location in the configuration, message in the project's words).

    `raw(loc)` gives the scalar at a location as the user wrote it, or None. What a message advises to write is tried on
    the field first.
    """
    for item in problems:
        loc: Loc = tuple(item["loc"])
        dotted = ".".join(str(part) for part in loc)
        kind, value = item["type"], item["input"]
        if kind == "extra_forbidden":
            yield loc, f"{dotted}: unknown key{suggestion(str(loc[-1]), list(_section(model, loc).model_fields))}"
        elif kind == "unusable":
            yield loc, f"{dotted}: {item['msg']}"
        elif kind == "literal_error":
            allowed = item["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            advice = _advice(model, loc, value, raw(loc))
            word = value if isinstance(value, str) else ""
            yield loc, f"{dotted}: {_found(value, raw(loc))}{advice or suggestion(word, allowed)}"
        else:
            limits = {
                key: limit if isinstance(limit, str) else spelled(limit).removesuffix(".0")
                for key, limit in item.get("ctx", {}).items()
            }
            words = _EXPECTED.get(kind, "").format(**limits) or item["msg"]
            advice = _advice(model, loc, value, raw(loc))
            yield loc, f"{dotted}: {_found(value, raw(loc))}{advice or f'; expected {words}'}"


def accepts(model: type[BaseModel], loc: Loc, value: Any) -> bool:
    """Whether the field at `loc` takes the value, other fields apart."""
    section = _section(model, loc)
    try:
        section.model_validate({str(loc[-1]): value})
    except ValidationError as error:
        return all(item["loc"][:1] != loc[-1:] for item in error.errors(include_url=False))
    return True


def _section(model: type[BaseModel], loc: Loc) -> type[BaseModel]:
    """The section that holds the field at `loc` of a nested model, as far as it is known."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return model


def _advice(model: type[BaseModel], loc: Loc, value: Any, raw: str | None) -> str:
    """`: write 1.0e-4`, where something can have been meant that the field takes; else nothing."""
    meant = list(readings(value))
    if raw is not None and not isinstance(value, str):
        meant.append((raw, spelled(raw)))
    for reading, text in meant:
        if accepts(model, loc, reading):
            return f": write {text}{' without quotes' if text == value else ''}"
    return ""


def _found(value: Any, raw: str | None) -> str:
    if isinstance(value, bool) and raw is not None and raw.lower() not in ("true", "false"):
        return f"found {raw}, which YAML reads as {str(value).lower()}"
    if isinstance(value, str) and is_number(value):
        if any(text == value for _, text in readings(value)):
            return f"found the text {shortened(repr(value))}"
        if not any(True for _ in readings(value)):
            large = abs(float(value.replace("_", ""))) > 1
            return f"found {shortened(value)}, which is too {'large' if large else 'small'} a number"
        return f"found {shortened(value)}, which YAML reads as text"
    if isinstance(value, dict):
        return "found a mapping"
    return f"found {'nothing' if value is None else shortened(repr(value))}"
