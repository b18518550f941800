"""What every section of a configuration is made of: a strict, frozen model, and numbers with their ranges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WrapValidator
from pydantic_core import PydanticCustomError, ValidationError

MAX_WHOLE = 2**63 - 1
"""The largest seed: what a table's column of whole numbers holds."""
MAX_COUNT = 10**9
"""The largest number of things: of steps, of images, of steps between two readings."""
MAX_IMAGE_SIZE = 16_384
"""Height and width in pixels."""
MAX_REPLICAS = 10_000
"""The largest number of asynchronous replicas."""
MAX_FACTOR = 1000.0
"""The largest factor on a number of things."""
MAX_NUMBER = 1e30
MIN_NUMBER = 1e-30
"""The numbers between: single precision holds them with room to spare."""
LARGEST_SINGLE = 3.4e38
"""What single precision holds."""


def _one_zero(value: float) -> float:
    """0.0 for -0.0: two spellings of one number are one run."""
    return value + 0.0


def _not_vanishing(value: float) -> float:
    if value < MIN_NUMBER:
        raise PydanticCustomError("expected", "expected {expected}", {"expected": f"at least {MIN_NUMBER:g}"})
    return value


def _path(value: str) -> str:
    """The path without what says nothing: `imgs` for `./imgs`, `imgs/` and `imgs//`."""
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
        raise PydanticCustomError("expected", "expected {expected}", {"expected": "a path"})
    return str(PurePath(value))


Seed = Annotated[int, Field(ge=0, le=MAX_WHOLE)]
PositiveInt = Annotated[int, Field(ge=1, le=MAX_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Replicas = Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
PositiveFloat = Annotated[float, Field(gt=0, le=MAX_NUMBER), AfterValidator(_not_vanishing)]
Factor = Annotated[float, Field(gt=0, le=MAX_FACTOR), AfterValidator(_not_vanishing)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=MAX_NUMBER), AfterValidator(_one_zero)]
Share = Annotated[float, Field(ge=0, le=1), AfterValidator(_one_zero)]
PositiveShare = Annotated[float, Field(gt=0, le=1), AfterValidator(_not_vanishing)]
Decay = Annotated[float, Field(ge=0, lt=1), AfterValidator(_one_zero)]
"""A share of the old that is kept: not all of it."""
PathText = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_path)]


def one_message(expected: str) -> WrapValidator:
    """Replace the errors of every member of a union by one that says what is allowed."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("expected", "expected {expected}", {"expected": expected}) from None

    return WrapValidator(validate)


class Strict(BaseModel):
    """A section of a configuration: no conversions, no unknown keys, no changes, no infinities."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
