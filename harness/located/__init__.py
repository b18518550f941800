"""YAML text whose every value knows its file, line and column, and the errors that say so."""

from harness.located.document import Document, Loc, parse, parse_value, read, read_text
from harness.located.explain import accepts, explain
from harness.located.problem import InputError
from harness.located.spelling import readings, shortened, spelled

__all__ = [
    "Document",
    "InputError",
    "Loc",
    "accepts",
    "explain",
    "parse",
    "parse_value",
    "read",
    "read_text",
    "readings",
    "shortened",
    "spelled",
]
